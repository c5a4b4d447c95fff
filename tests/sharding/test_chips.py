"""A mesh that is chosen by chip: how chips are called, what is loaded, and what is refused."""

import pytest

from aevo_jax import command
from aevo_jax.config.configurables import LoadError, resolve
from aevo_jax.sharding import chips

TABLE = {'h200': 'configs/meshes/fsdp.gin', 'v5p': 'configs/meshes/context.gin'}
FSDP = '--gin_file=configs/meshes/fsdp.gin'


@pytest.mark.parametrize(
  ('kind', 'name'),
  [
    ('cpu', 'cpu'),
    ('NVIDIA H200', 'h200'),
    ('NVIDIA H100 80GB HBM3', 'h100'),
    ('NVIDIA A100-SXM4-80GB', 'a100'),
    ('NVIDIA GH200 480GB', 'gh200'),
    ('NVIDIA B200', 'b200'),
    ('TPU v4', 'v4'),
    ('TPU v5', 'v5p'),
    ('TPU v5p', 'v5p'),
    ('TPU v5 lite', 'v5e'),
    ('TPU v6 lite', 'v6e'),
    ('TPU v6e', 'v6e'),
  ],
)
def test_chips_are_called_as_their_hardware_files(kind, name):
  assert chips.chip_of(kind) == name


def loaded(chip, *arguments, name='shapes'):
  """Loads these gin flags as a command does, and returns its status."""
  one = command.Command(name, 'Loads.')

  @one
  def main(positional):
    one.load_gin(chip=chip)

  return main(arguments)


def for_chip(table=None):
  return f'--gin.mesh.for_chip={TABLE if table is None else table}'


@pytest.mark.parametrize(('chip', 'axes'), [('h200', ['fsdp']), ('v5p', ['fsdp', 'context'])])
@pytest.mark.parametrize('name', ['shapes', 'train', 'pretrain', 'evaluate'])
def test_axes_and_rules_are_those_of_the_chips_file(name, chip, axes):
  assert loaded(chip, for_chip(), '--gin.sharding.replicated_limit_mib=5', name=name) == 0
  assert list(resolve('mesh').axes) == axes and resolve('mesh').for_chip == TABLE
  sharding = resolve('sharding')
  assert ('length' in sharding.rules) == (chip == 'v5p') and sharding.replicated_limit_mib == 5


def test_the_chip_is_that_of_this_process_unless_one_is_named():
  assert loaded('', for_chip({'cpu': 'configs/meshes/hybrid.gin'})) == 0
  assert resolve('mesh').hosts == {'data': 2}


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (
      [for_chip()],
      "names no mesh for 'cpu', the chip that computes here; known: h200, v5p; add it",
    ),
    ([for_chip(), FSDP], 'mesh.for_chip and mesh.axes are both bound'),
    (
      [for_chip({'cpu': 'configs/meshes/fsdp.gin'}), '--gin.sharding.rules={"embed": "fsdp"}'],
      'mesh.for_chip and sharding.rules are both bound',
    ),
    ([for_chip({'H200': 'a.gin'})], "chips are in lower case; write 'h200' for 'H200'"),
    ([for_chip({'cpu': 'configs/meshes/fspd.gin'})], "did you mean 'configs/meshes/fsdp.gin'"),
    (
      [for_chip({'cpu': 'configs/models/micro_qwen3.gin'})],
      'binds no mesh.axes; name a mesh there',
    ),
  ],
)
def test_what_chooses_no_mesh_is_refused(arguments, said, capsys):
  assert loaded('', *arguments) == 1
  assert said in capsys.readouterr().err


def test_a_file_that_chooses_again_is_refused(tmp_path, capsys):
  path = tmp_path / 'again.gin'
  path.write_text("mesh.axes = {'fsdp': -1}\nmesh.for_chip = {'h200': 'configs/meshes/fsdp.gin'}\n")
  first = tmp_path / 'first.gin'
  first.write_text(f"mesh.for_chip = {{'cpu': '{path}'}}\n")
  assert loaded('', f'--gin_file={first}') == 1
  assert 'and binds mesh.for_chip; name a mesh there' in capsys.readouterr().err


def test_a_near_name_is_suggested():
  with pytest.raises(LoadError, match="did you mean 'h200'"):
    chips.file_of(TABLE, 'gh200')


def test_a_command_without_a_mesh_chooses_none(tmp_path):
  """The file of the table is not there, and is not looked for."""
  shared = tmp_path / 'shared.gin'
  shared.write_text("mesh.for_chip = {'cpu': 'none.gin'}\nbudget.rounds = 2\n")
  assert loaded('', f'--gin_file={shared}', name='simulate') == 0
