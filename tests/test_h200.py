"""The list of measurements for a GPU (benchmarks/h200.py), at toy sizes on a CPU, so that it runs
when a GPU is at hand.
"""

import importlib
import json
import math
import subprocess
import sys

import pytest

from aevo_jax import layout

ROOT = layout.root_file('constitution.gin').parent
SCRIPT = ROOT / 'benchmarks' / 'h200.py'
ON_GPUS_ALONE = ('mosaic', 'cudnn')  # kernels, in the names of the cases that need them


@pytest.fixture
def h200(monkeypatch):
  """The script as a module."""
  monkeypatch.syspath_prepend(str(SCRIPT.parent))
  return importlib.import_module('h200')


# d1, d2 and d3 are d4's function with other presets and flags.
@pytest.mark.parametrize('key', ['a', 'b', 'c', 'd4', 'e', 'f', 'g', 'h'])
def test_a_part_runs(h200, key):
  part = h200.PARTS[key]
  module = importlib.import_module(f'h200_parts.{part.module}')
  rows = list(getattr(module, part.name)('toy'))
  measured = [row for row in rows if 'error' not in row]
  failed = [row for row in rows if 'error' in row]
  assert measured
  for row in failed:
    assert any(name in row['case'] for name in ON_GPUS_ALONE), row
  for row in measured:
    figures = [value for value in row.values() if isinstance(value, float)]
    assert all(math.isfinite(value) and value >= 0 for value in figures), row
  json.dumps(rows)


@pytest.mark.parametrize(
  ('name', 'blocks'),
  [('qwen3_0p6b', 56), ('qwen3_1p7b', 56), ('qwen3_4b', 72), ('nemotron3_nano_30b_a3b', 52)],
)
def test_the_models_of_a_gpu_are_the_published_ones(h200, monkeypatch, name, blocks):
  models = importlib.import_module('h200_parts.models')
  monkeypatch.chdir(ROOT)
  config = models.preset(name, 'h200')
  assert len(config.pattern) == blocks and config.compute_dtype == 'bfloat16'


def test_every_part_names_a_function(h200):
  for part in h200.PARTS.values():
    module = importlib.import_module(f'h200_parts.{part.module}')
    assert callable(getattr(module, part.name))


def test_the_script_writes_rows_as_it_goes_and_ends_a_part_at_its_limit(h200, tmp_path):
  done = subprocess.run(
    [sys.executable, SCRIPT, f'--out={tmp_path}', '--size=toy', '--only=a'],
    capture_output=True,
    text=True,
    check=True,
  )
  results = tmp_path / 'h200.jsonl'
  rows = [json.loads(line) for line in results.read_text().splitlines()]
  assert [row['part'] for row in rows] == ['header'] + ['a'] * 4
  assert rows[-1].keys() == {'part', 'what', 'case', 'seconds'}
  assert '| a | the device' in done.stdout
  h200.run_part('a', 'toy', 0.1, results)
  assert 'status -9' in json.loads(results.read_text().splitlines()[-1])['error']
  assert h200.table(results.read_text()).count('\n') == len(rows) + 2


def test_an_unknown_part_is_named(tmp_path):
  done = subprocess.run(
    [sys.executable, SCRIPT, f'--out={tmp_path}', '--only=a,z'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  assert '--only: no part z; there are a, b' in done.stderr


def test_it_starts_nothing_that_its_budget_has_no_time_for(tmp_path):
  done = subprocess.run(
    [sys.executable, SCRIPT, f'--out={tmp_path}', '--size=toy', '--budget_s=10'],
    capture_output=True,
    text=True,
    check=True,
  )
  assert 'the budget of 10 s is used up before part a' in done.stdout
