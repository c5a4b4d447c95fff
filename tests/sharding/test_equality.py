"""One optimizer step on 8 simulated devices is the single device's, and its arrays really are
spread.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from aevo_jax import layout

ROOT = pathlib.Path(layout.__file__).resolve().parent.parent
MESHES = sorted(path.stem for path in layout.root_file('configs').glob('meshes/*.gin'))
# {mesh: into how many parts such an array is cut}, written down from the mesh files.
EMBEDDING = {'single': 1, 'fsdp': 8, 'fsdp_tensor': 8, 'expert': 8, 'context': 8, 'hybrid': 4}
EXPERTS = {'single': 1, 'fsdp': 8, 'fsdp_tensor': 8, 'expert': 8, 'context': 8, 'hybrid': 4}
# Where mamba's widths are cut and rows are not.
INTERLEAVED = dict.fromkeys(MESHES, 1) | {'fsdp_tensor': 4, 'hybrid': 2}
BATCH = {'single': 1, 'fsdp': 8, 'fsdp_tensor': 2, 'expert': 8, 'context': 8, 'hybrid': 4}


def on_eight_devices(*arguments, script='on_eight_devices.py'):
  """The JSON lines of one process with 8 devices."""
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8'
  environment = os.environ | {'XLA_FLAGS': flags, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  result = subprocess.run(
    [sys.executable, pathlib.Path(__file__).with_name(script), *arguments],
    capture_output=True,
    text=True,
    env=environment,
  )
  assert result.returncode == 0, result.stderr
  return list(map(json.loads, result.stdout.splitlines()))


def parts(shapes):
  return np.prod(shapes[0]) / np.prod(shapes[1])


def check(patterns, meshes):
  found = {
    (line['pattern'], line['mesh']): line
    for line in on_eight_devices(','.join(patterns), ','.join(meshes))
  }
  assert found.keys() == {(pattern, mesh) for pattern in patterns for mesh in meshes}
  for (pattern, mesh), case in found.items():
    kinds = pattern.partition('+')[0]
    assert case['devices'] == (1 if mesh == 'single' else 8)
    # The step moves parameters by 1e-3; a wrong gradient would change them by as much.
    assert case['step_moved'] > 9e-4 and case['grad_norm'] > 0.5
    for what in ('loss', 'grad_norm', 'state'):
      assert case[f'{what}_difference'] < 1e-5, (pattern, mesh, what, case[f'{what}_difference'])
    assert parts(case['batch']) == BATCH[mesh]
    assert case['interleaved'] == (INTERLEAVED[mesh] if 'M' in kinds else 1)
    has_moments = not pattern.endswith(('adafactor', 'muon'))
    for of in ('params', 'mu', 'nu') if has_moments else ('params',):
      held = {name: shapes for name, shapes in case['held'].items() if of in name.split('.')}
      assert (
        parts(next(shapes for name, shapes in held.items() if name.endswith('embedding')))
        == EMBEDDING[mesh]
      ), (mesh, of)
      if 'E' in kinds:
        assert (
          parts(next(shapes for name, shapes in held.items() if name.endswith('experts.up_proj')))
          == EXPERTS[mesh]
        ), (mesh, of)


@pytest.mark.parametrize(
  ('pattern', 'meshes'),
  [
    ('E*+chunks', ['fsdp_tensor', 'context']),
    ('*E*E+scan+qwen3', ['expert']),
    ('*E+kernels+window', ['fsdp_tensor', 'context', 'expert']),
  ],
)
def test_a_step_is_the_single_devices(pattern, meshes):
  """Experts and attention, under the three meshes that cut most: experts, widths, rows; one scanned
  with remat, one with GPUs' kernels. The slow test below has all.
  """
  check([pattern], meshes)


def test_a_run_continues_on_another_mesh(tmp_path):
  """One step under fsdp, two under fsdp_tensor, which pads the vocabulary and interleaves mamba's
  weights, and one under context: the state of four steps without a mesh, moving average and
  moments too.
  """
  (case,) = on_eight_devices('continued', tmp_path)
  assert case['step'] == 4 and case['moved'] > 1e-2 and case['difference'] < 1e-5
  for name in ('embedding', 'lm_head.kernel', 'layers.1.mixer.up_proj.kernel'):
    assert parts(case['held'][name]) == 8
  assert parts(case['moment']) == 8


def test_devices_sum_gradients_in_float32_where_that_is_bound():
  """In a bfloat16 model of mamba, experts and MLPs: what is summed along 'fsdp' is float32 alone,
  and a weight's gradient exact to float32's rounding; unbound, matrices are summed in bfloat16.
  """
  for line in on_eight_devices('reduced', 'ME', 'fsdp'):
    exact = line['reduction'] == 'float32'
    if 'error' in line:
      assert line['error'] < 1e-6 if exact else line['error'] > 1e-3, line
    else:
      dtypes = [dtype for _, _, dtype in line['summed'] if dtype != 's32']
      assert len(dtypes) > 8 and ('bf16' in dtypes) != exact, line


@pytest.mark.slow
def test_a_step_is_the_single_devices_for_dense_hybrid_and_moe():
  check(
    [
      '*-*-+odd',
      '*-*-+chunks',
      'M-*-',
      'ME*E',
      'M*EM*E+scan+odd',
      '*E*-+qwen3',
      '*E+kernels',
      '*-*-+scan+kernels',
      'M-+odd+adafactor',
      'M-+odd+muon',
    ],
    MESHES,
  )
