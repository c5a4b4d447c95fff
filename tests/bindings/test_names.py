"""Names that are read from the source are those that modules register."""

import subprocess
import sys
import time

import every_binding
import pytest
from aevo_command import aevo, environment

from aevo_jax.bindings import names
from aevo_jax.bindings import registered as _registered  # noqa: F401  for its registrations
from aevo_jax.config import configurables


def test_they_are_what_is_registered():
  registered = configurables.parameters()
  expected = {name: fields for name, fields in registered.items() if every_binding.is_ours(name)}
  assert {name: sorted(fields) for name, fields in names.written().items()} == {
    name: sorted(fields) for name, fields in expected.items()
  }


def test_a_wrong_name_is_answered_before_jax_is_imported(tmp_path):
  """With the place and the nearest name, from files and flags."""
  file = tmp_path / 'wrong.gin'
  file.write_text('train.batch_rows = 8\noptimizer.learning_rat = 1e-3\n')
  code = (
    'import sys; from aevo_jax.cli import main; status = main(sys.argv[1:]); '
    'print(status, "jax" in sys.modules)'
  )
  wrong = (f'--gin_file={file}', '--gin.optimizr.name=sgd')
  done = subprocess.run(
    [sys.executable, '-c', code, 'train', f'--out={tmp_path}/run', *wrong],
    capture_output=True,
    text=True,
    env=environment(),
    check=True,
  )
  assert done.stdout == '1 False\n'
  assert f"{file}:2: 'optimizer' has no parameter 'learning_rat'" in done.stderr
  assert (
    "no configurable 'optimizr' for 'optimizr.name'; did you mean 'optimizer.name'" in done.stderr
  )
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'command', [['pretrain', '--out=OUT'], ['evaluate', 'substrate'], ['shapes'], ['simulate']]
)
def test_other_commands_answer_it_too(command, tmp_path):
  arguments = [word.replace('OUT', str(tmp_path / 'out')) for word in command]
  started = time.perf_counter()
  done = aevo(*arguments, '--gin.mesh.axis={}')
  assert done.returncode == 1 and time.perf_counter() - started < 5
  assert "'mesh' has no parameter 'axis'; did you mean 'axes'" in done.stderr
