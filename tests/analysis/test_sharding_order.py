"""What is kept of predicted and measured order, and how docs/status.md shows it."""

import importlib.util
import json

import pytest

from aevo_jax import layout

ROOT = layout.root_file('constitution.gin').parent


def load(folder: str, name: str):
  spec = importlib.util.spec_from_file_location(f'{name}_', ROOT / folder / f'{name}.py')
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def row() -> dict:
  bounds = {'shortest': 0.001, 'longest': 0.004}
  measured = {'seconds': 0.1, 'verdict': 'baseline', 'devices': '8 x cpu'}
  control = {'devices': '8 x cpu', 'steps': 10, 'round_seconds': [0.1, 0.1, 0.1]}
  rows = [
    {'mesh': 'fsdp8', 'roofline': bounds, 'measured': measured},
    {'mesh': 'failed', 'roofline': bounds, 'measured': {'error': 'no memory'}},
    {'mesh': 'refused', 'error': 'cannot be divided'},
    {'mesh': 'data8', 'left_out': 'does not fit'},
    {
      'mesh': 'control',
      'repeats': 'fsdp8',
      'measured': control,
      'spread': 0.05,
      'rank_correlation': {'tau': -0.25, 'p': 0.5, 'meshes': 8},
    },
  ]
  return load('benchmarks', 'sharding_order').row(rows, 'aevo x', 'cpux8', [7.25, 9.5])


def test_a_row_has_what_was_predicted_and_measured():
  kept = row()
  assert kept['meshes'] == {
    'fsdp8': {
      'predicted_ms': pytest.approx(2.0),
      'measured_ms': pytest.approx(100.0),
      'verdict': 'baseline',
    }
  }
  assert kept['rounds'] == 3 and kept['spread'] == 0.05 and kept['load'] == [7.2, 9.5]


def test_the_page_shows_a_bad_figure_too(tmp_path):
  status = load('launch', 'status')
  assert status.predicted_order(tmp_path) == []
  results = tmp_path / 'benchmarks' / 'results'
  results.mkdir(parents=True)
  unmeasured = row() | {'rank_correlation': None}
  text = ''.join(json.dumps(one) + '\n' for one in (row(), unmeasured))
  (results / 'sharding_order.jsonl').write_text(text)
  *_, last = status.predicted_order(tmp_path)
  assert last.startswith('| cpux8 | 8 | -0.25 | 0.5 | 100 to 100 | 5.0% |')
  assert last.endswith('| `aevo x` | ' + row()['machine'] + ', load 7.2 to 9.5 |')
