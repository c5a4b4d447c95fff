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
        'mesh axis fsdp; change sharding.rules for'
      ),
    ),
    (
      ['--gin_file=configs/meshes/expert.gin', '--gin.sharding.pad_vocab=False'],
      "the nearest mesh that divides it: mesh.axes = {'fsdp': 4, 'expert': 2}",
    ),
    (
      ['--gin_file=configs/meshes/fsdp.gin', '--devices=3'],
      'no mesh with these axes and as many devices divides it',
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


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ([], 'name mesh files and devices, e.g. --meshes=configs/meshes/fsdp.gin --hardware=h200x8'),
    (['--meshes=none/*.gin', '--hardware=h200x8'], '--meshes=none/*.gin: there is no such file'),
    (['--meshes=configs/meshes/*.gin', '--hardware=abacus'], "--hardware: 'abacus' is no target"),
    (
      ['--meshes=configs/meshes/*.gin', '--hardware=h200x8', '--json=no/such/t.json'],
      'no/such/t.json: there is no such directory',
    ),
    (['--hardware=h200x8', '--suggest', '--rounds=9'], '--rounds is read with --measure alone'),
    (
      ['--hardware=h200x8', '--meshes=configs/meshes/fsdp.gin', '--best=3'],
      '--best is read with --suggest alone',
    ),
  ],
)
def test_a_comparison_that_cannot_be_is_a_sentence(arguments, said):
  result = aevo('compare_sharding', *arguments)
  assert result.returncode == 1 and said in result.stderr and 'Traceback' not in result.stderr


def test_meshes_are_compared_and_one_that_does_not_divide_is_a_row(tmp_path):
  result = aevo(
    'compare_sharding',
    '--gin_file=configs/models/micro_qwen3.gin',
    "--gin.model.pattern='*-'",
    '--meshes=configs/meshes/fsdp.gin',
    '--meshes=configs/meshes/context.gin',
    '--hardware=cpux8',
    '--row_length=30',
    '--gin.sharding.replicated_limit_mib=100',
    '--gin.hardware.memory_gb=0.000001',
    f'--json={tmp_path}/t.json',
    f'--html={tmp_path}/t.html',
  )
  assert result.returncode == 0, result.stderr
  fsdp, context = json.loads((tmp_path / 't.json').read_text())
  assert fsdp['mesh'] == 'fsdp' and fsdp['rows'] == 8
  assert not fsdp['fits'] and fsdp['largest_batch'] == 0
  assert {tuple(one['axes']) for one in fsdp['collectives']} == {('fsdp',)}
  assert 'train.row_length = 30 cannot be divided by 4' in context['error']
  assert '<svg' in (tmp_path / 't.html').read_text()
  assert '| fsdp | cpux8 | 8 x 30 |' in result.stdout
