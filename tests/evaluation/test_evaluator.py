"""The evaluator scores the sealed bytes and nothing else."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.evaluation import scoring
from aevo_jax.evaluation.scoring import ItemResult
from aevo_jax.evaluation.servers import backend, protocol, score_files
from aevo_jax.models.hf import checkpoint

RESULTS = [ItemResult('f', 'k', '1', True, True)]


def test_only_the_sealed_file_is_loaded(tiny_run, tmp_path):
  inputs = json.loads((tiny_run / 'inputs.json').read_text())
  config = checkpoint.read_config(pathlib.Path(inputs['store']) / inputs['substrate_object'])
  weights = tmp_path / 'model.safetensors'
  weights.write_bytes((tiny_run / 'base.safetensors').read_bytes())
  digest = file_digest(weights)
  assert backend.load_sealed(weights, digest, config)
  data = bytearray(weights.read_bytes())
  data[-1] ^= 1
  weights.write_bytes(data)
  with pytest.raises(protocol.RequestError, match='not the file that was sealed'):
    backend.load_sealed(weights, digest, config)
  weights.unlink()
  weights.symlink_to(tiny_run / 'base.safetensors')
  with pytest.raises(OSError):
    backend.load_sealed(weights, digest, config)


def test_scores_are_written_whole_or_not_at_all(tmp_path):
  path = tmp_path / 'scores' / 'r1w0.dev.json'
  score_files.write_scores(path, RESULTS, {'overall': 1}, file_digest='d')
  assert json.loads(path.read_text()) == {
    'summary': {'overall': 1},
    'file_digest': 'd',
    'items': [['f', 'k', '1', True, True]],
  }

  def failing():
    yield RESULTS[0]
    raise OSError(28, 'No space left on device')

  with pytest.raises(OSError):
    score_files.write_scores(path, failing(), {'overall': 2}, file_digest='d')
  assert json.loads(path.read_text())['summary'] == {'overall': 1} and os.listdir(path.parent) == [
    path.name
  ]


SERVE = """
from aevo_jax.evaluation.servers.protocol import RequestError, serve
import os
def f(request):
  print('a stray print of a library')
  os.write(1, b'and one below Python\\n')
  if request['x'] == 0:
    raise RequestError('not that')
  return {'y': 1 / request['x']}
serve({'f': f})
"""


def test_the_protocol_survives_stray_prints_errors_and_unknown_operations():
  requests = [
    {'op': 'f', 'x': 2},
    {'op': 'f', 'x': 0},
    {'op': 'g'},
    {'op': 'f'},
    {'op': 'f', 'x': 4},
  ]
  result = subprocess.run(
    [sys.executable, '-c', SERVE],
    input='\n'.join(map(json.dumps, requests)) + '\n',
    capture_output=True,
    text=True,
    timeout=60,
  )
  replies = [json.loads(line) for line in result.stdout.splitlines()]
  assert replies[0] == {'y': 0.5} and replies[4] == {'y': 0.25}
  assert (
    'not that' in replies[1]['error']
    and "unknown operation 'g'" in replies[2]['error']
    and 'KeyError' in replies[3]['error']
  )
  assert (
    'stray print' in result.stderr and 'below Python' in result.stderr and result.returncode == 0
  )


def test_scores_of_the_finished_run_follow_from_its_item_rows(tiny_run):
  for path in sorted((tiny_run / 'scores').glob('*.json')):
    stored = json.loads(path.read_text())
    results = scoring.from_rows(stored['items'])
    assert scoring.summary(results, stored['summary']['verifier']) == stored['summary']
    assert stored['summary']['overall']['correct'] == sum(row[3] for row in stored['items'])
