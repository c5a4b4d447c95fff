"""The parser's child process: it agrees with the parser, is stopped, and imports little."""

import ast
import pathlib
import sys

import pytest

from aevo_jax.config import statements
from aevo_jax.config.statements import Binding, Code, StatementError, parse_statements, render
from aevo_jax.config.untrusted import ParserProcessError, parse_untrusted


def in_process(text: str) -> tuple[Code, str]:
  with pytest.raises(StatementError) as caught:
    parse_statements(text)
  return caught.value.code, str(caught.value)


def test_untrusted_agrees_with_in_process():
  text = "a.b = {'x': [1, (2,), 1e-5, None, True], 4: 'é\\ud800'}\nc.d = -0.0\n"
  assert render(parse_untrusted(text)) == render(parse_statements(text))
  for bad in ('import os', "a.b = 'x' 'y'", 'a.b = [', 'a.b = 1\na.b = 2'):
    with pytest.raises(StatementError) as caught:
      parse_untrusted(bad)
    assert (caught.value.code, str(caught.value)) == in_process(bad)
  with pytest.raises(StatementError) as caught:
    parse_untrusted('#' * 9000)
  assert caught.value.code is Code.TOO_LARGE


def test_untrusted_child_is_stopped_by_the_cpu_limit():
  endless = 'a.b = [' + '1, ' * 10**6 + ']'
  with pytest.raises(StatementError) as caught:
    parse_untrusted(endless, max_bytes=10**7, cpu_seconds=1)
  assert caught.value.code is Code.TIMEOUT


def test_untrusted_child_is_light_and_isolated(monkeypatch, tmp_path):
  """Neither JAX nor anything that the environment could plant is imported by the child."""
  (tmp_path / 'gin').mkdir()
  (tmp_path / 'gin' / '__init__.py').write_text('raise SystemExit(3)')
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  assert parse_untrusted('a.b = 1') == (Binding('a.b', 1),)
  tree = ast.parse(pathlib.Path(statements.__file__).read_text(encoding='utf-8'))
  imported = {
    alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
  }
  imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
  assert {name.split('.')[0] for name in imported} - sys.stdlib_module_names == {'gin'}


def test_a_child_that_cannot_run_is_not_the_texts_fault():
  with pytest.raises(ParserProcessError, match='status 1'):
    parse_untrusted('a.b = 1', executable='/bin/false')
