"""`aevo compare_sharding` with a mesh file that chooses by chip compares the chosen mesh."""

import json
import subprocess
import sys

from aevo_command import REPOSITORY, environment


def test_the_mesh_of_the_target_is_compared(tmp_path):
  chooses = tmp_path / 'by_chip.gin'
  chooses.write_text("mesh.for_chip = {'cpu': 'configs/meshes/fsdp.gin', 'h200': 'none.gin'}\n")
  result = subprocess.run(
    [
      *(sys.executable, '-m', 'aevo_jax.cli', 'compare_sharding', '--hardware=cpux2'),
      *('--row_length=16', '--gin_file=configs/models/micro_nemotron_h.gin'),
      *("--gin.model.pattern='-'", f'--meshes={chooses}', f'--json={tmp_path}/t.json'),
    ],
    cwd=REPOSITORY,
    env=environment(),
    capture_output=True,
    text=True,
    timeout=200,
  )
  assert result.returncode == 0, result.stderr
  (row,) = json.loads((tmp_path / 't.json').read_text())
  assert row['mesh'] == 'by_chip' and row['fits']
  assert row['sizes'] == {'fsdp': 2} and row['rows'] == 2
