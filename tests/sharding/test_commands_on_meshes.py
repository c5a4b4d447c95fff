"""`aevo pretrain`, `aevo evaluate` and the sampler on 8 simulated devices give what one gives,
and their weights really are spread.
"""

import pytest
from test_equality import on_eight_devices

SCRIPT = 'commands_on_eight_devices.py'


@pytest.mark.parametrize(
  ('pattern', 'mesh'), [('M*E', 'fsdp_tensor'), ('*E+qwen3+window', 'context')]
)
def test_greedy_tokens_are_the_single_devices(pattern, mesh):
  """Five rows are asked at a time, which neither mesh divides."""
  (case,) = on_eight_devices('sampler', pattern, mesh, script=SCRIPT)
  assert case['sharded'] == case['whole']
  assert case['gathered_in_loop'] >= 4, 'queries, keys, values and outputs, block by block'
  assert len({tuple(tokens) for tokens in case['whole']}) > 4, 'one answer to all compares nothing'


def test_pretraining_under_a_mesh_is_the_single_devices(tmp_path):
  """Losses and weights to 1e-5, also where half of the run is on another mesh."""
  whole, on_one, fsdp, on_eight, continued, first, second, refused = on_eight_devices(
    'pretrain', tmp_path, script=SCRIPT
  )
  assert len(whole['loss']) == 4 and whole['loss'][3] < whole['loss'][0] - 0.1
  for case in (fsdp, continued):
    assert case['loss'] == pytest.approx(whole['loss'], abs=1e-5)
    assert case['difference'] < 1e-5
    assert case['accuracy'] == whole['accuracy']
  assert 'devices  1 cpu, no mesh' in whole['out']
  assert 'devices  8 cpu, mesh fsdp 8' in fsdp['out']
  assert (
    'devices  8 cpu, mesh fsdp 2 x context 4 (configs/meshes/context.gin, by mesh.for_chip'
    in (continued['out'])
  )
  assert first['mesh'] == {'fsdp': 8} and first['chosen'] == ''
  assert second['mesh'] == {'fsdp': 2, 'context': 4} and second['devices'] == 8
  assert second['chosen'] == 'configs/meshes/context.gin, by mesh.for_chip for cpu'
  assert second['rules']['length'] == ['context'] and second['device_kind'] == 'cpu'
  assert not (tmp_path / 'whole' / 'devices.jsonl').exists()
  assert 'step 0 of 4' in fsdp['out'] and 'step 0 of 4' not in continued['out']
  kernel = 'mixer.q_proj.kernel'
  for what, name in (('trained', f'segments.0.0.{kernel}'), ('scored', f'layers.2.{kernel}')):
    assert on_eight[what][name] == on_eight[what]['embedding'] == 8
    assert on_one[what][f'layers.2.{kernel}'] == on_one[what]['embedding'] == 1
  assert refused['status'] == 1
  assert 'pretrain.rows = 6 cannot be divided by 8, the size of mesh axis fsdp' in refused['said']
  assert not (tmp_path / 'refused').exists()


def test_evaluation_under_a_mesh_is_the_single_devices(tmp_path):
  whole, context, devices, rules = on_eight_devices('evaluate', tmp_path, script=SCRIPT)
  assert context['result'] == whole['result']
  assert whole['result']['overall']['correct'] > 0
  assert whole['scored']['embedding'] == 1 and context['scored']['embedding'] == 8
  assert 'devices    8 cpu, mesh fsdp 2 x context 4' in context['said']
  assert devices['status'] == rules['status'] == 1
  assert "mesh axes {'fsdp': 3} need 3 devices and there are 8" in devices['said']
  assert "rules: no logical axis 'a'" in rules['said']
