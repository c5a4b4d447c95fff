"""The examples in the docstrings of aevo_jax.stats give what they show."""

import doctest
import importlib
import pkgutil

import pytest

from aevo_jax import stats

MODULES = [module.name for module in pkgutil.iter_modules(stats.__path__)]


@pytest.mark.parametrize('name', MODULES)
def test_examples(name):
  result = doctest.testmod(importlib.import_module(f'aevo_jax.stats.{name}'))
  assert result.attempted and not result.failed
