"""The examples in the docstrings of aevo_jax.stats give what they show."""

import doctest
import importlib
import pkgutil

import pytest

from aevo_jax import stats

# Their results are of more than a line.
WITHOUT = {'aevo_jax.stats.comparisons', 'aevo_jax.stats.comparisons.recipe_comparison'}
MODULES = [m.name for m in pkgutil.walk_packages(stats.__path__, 'aevo_jax.stats.')]


@pytest.mark.parametrize('name', sorted(set(MODULES) - WITHOUT))
def test_examples(name):
  result = doctest.testmod(importlib.import_module(name))
  assert result.attempted and not result.failed
