"""What is kept of compilers (tools/compile_targets.py): goldens, growth, rows that say why not."""

import importlib.util
import json
import sys

import pytest

from aevo_jax import layout

ROOT = layout.root_file('constitution.gin').parent


@pytest.fixture
def tool(monkeypatch, tmp_path):
  spec = importlib.util.spec_from_file_location(
    'compile_targets', ROOT / 'tools' / 'compile_targets.py'
  )
  module = importlib.util.module_from_spec(spec)
  monkeypatch.setitem(sys.modules, 'compile_targets', module)
  spec.loader.exec_module(module)
  return module


ROW = {
  'case': 'a', 'model': 'qwen3_8b', 'mesh': 'fsdp', 'adaptation': 'lora', 'remat': 'dots',
  'target': 'h200x8', 'row_length': 4096, 'rows': 8, 'arguments': 2 * 2**30,
  'temporaries': 4 * 2**30, 'estimated_total': 6 * 2**30, 'gathered_bytes': 27 * 2**30,
  'compiled_over_useful': 1.2,
}  # fmt: skip


def test_goldens_are_kept_and_every_row_is_a_case(tool):
  rows = tool.kept()
  names = [case.name for case in tool.cases()]
  assert len(set(names)) == len(names)
  assert rows.keys() <= set(names)
  for golden in tool.GOLDENS:
    assert 'error' not in rows[golden.name]


def test_what_grows_is_said_and_what_shrinks_is_not(tool):
  assert tool.grown(ROW, ROW) == []
  assert tool.grown(ROW, ROW | {'temporaries': 2**30, 'gathered_bytes': 0}) == []
  said = tool.grown(ROW, ROW | {'temporaries': 5 * 2**30, 'compiled_over_useful': 1.3})
  assert [text.split()[1] for text in said] == ['temporaries', 'compiled_over_useful']


def test_a_line_says_whether_it_fits(tool):
  assert '| yes |' in tool.line(ROW)
  assert '| no |' in tool.line(ROW | {'temporaries': 140 * 2**30})
  assert tool.line(ROW | {'error': 'no kernel'}).endswith('| no kernel |')
  assert tool.line(ROW).count('|') == tool.HEAD.splitlines()[0].count('|')


def test_a_command_that_fails_is_a_row_with_its_last_line(tool, monkeypatch):
  row = tool.compile_case(tool.Case('no_such_model', 'fsdp', 'lora', 'h200x8'))
  assert 'no_such_model' in row['error'] and row['case'].startswith('no_such_model fsdp')
  json.dumps(row)
