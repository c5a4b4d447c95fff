"""aevo shapes as a person types it."""

import json

import pytest
from aevo_command import aevo


def shapes(*arguments):
  return aevo('shapes', *arguments)


def test_json_of_the_micro_model_by_hand():
  result = shapes(
    '--gin_file=configs/models/micro_nemotron_h.gin',
    '--gin_file=configs/meshes/context.gin',
    '--devices=8',
    '--rows=4',
    '--row_length=64',
    '--json',
  )
  assert result.returncode == 0, result.stderr
  found = json.loads(result.stdout)
  assert found['mesh'] == {'fsdp': 2, 'context': 4} and found['adaptation'] == 'full'
  # 8 blocks' inputs: 2 rows of a quarter of 64 places, 128 wide, float32.
  assert found['activations']['block']['block inputs'] == 8 * 2 * 16 * 128 * 4
  assert found['count'] > 7.7e5 and found['parameters'] < found['count'] * 4 / 7
  state = sum(found[name] for name in ('parameters', 'frozen', 'optimizer', 'moving_average'))
  for policy, parts in found['activations'].items():
    kept = parts['block inputs'] + parts['kept in blocks'] + parts['weights in compute dtype']
    backward = found['gradients'] + parts['largest block']
    assert found['total'][policy] == state + kept + max(parts['loss'], backward)


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (
      ['--gin_file=configs/meshes/fsdp.gin', '--devices=3'],
      (
        "embedding: dimension 1 ('embed', size 128) cannot be divided by 3, the size of "
        'mesh axis fsdp'
      ),
    ),
    (
      ['--gin_file=configs/meshes/fsdp_tensor.gin', '--devices=6'],
      'need a multiple of 4 devices and there are 6',
    ),
    ([], 'name a mesh'),
  ],
)
def test_a_mesh_that_does_not_fit_is_a_sentence(arguments, said):
  result = shapes(*arguments)
  assert result.returncode == 1 and said in result.stderr and 'Traceback' not in result.stderr
