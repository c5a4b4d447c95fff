"""The mesh of a chip, where gin chooses among mesh files by the chip that computes.

    mesh.for_chip = {'h200': 'configs/meshes/fsdp.gin', 'v5p': 'configs/meshes/fsdp_tensor.gin'}

Chips are named as the files of configs/hardware are.
"""

import re
from collections.abc import Mapping

import jax

from aevo_jax.config.configurables import LoadError, bound, resolve
from aevo_jax.config.nearest import suggestion

# TPUs whose kind, as JAX has it, is not their name.
_TPUS = {'v5': 'v5p', 'v5 lite': 'v5e', 'v6 lite': 'v6e'}
_BOUND_BY_FILE = (('mesh', 'axes'), ('mesh', 'hosts'), ('sharding', 'rules'))


def chip_of(device_kind: str) -> str:
  """Names a chip.

  Args:
    device_kind: as JAX has it: 'NVIDIA H100 80GB HBM3', 'TPU v5 lite', 'cpu'.

  Returns:
    Its name in lower case: 'h100', 'v5e', 'cpu'.
  """
  kind = device_kind.lower()
  if kind.startswith('tpu'):
    name = kind.removeprefix('tpu').strip()
    return _TPUS.get(name, name)
  words = re.split(r'[^a-z0-9]+', kind.removeprefix('nvidia').strip())
  return next((word for word in words if re.search(r'\d', word)), words[0])


def this_chip() -> str:
  """Names the chip of this process's devices."""
  return chip_of(jax.devices()[0].device_kind)


def file_of(table: Mapping[str, str], chip: str) -> str:
  """Finds the mesh file of a chip.

  Args:
    table: `mesh.for_chip`.
    chip: its name.

  Returns:
    The file.

  Raises:
    LoadError: the table has no such chip.
  """
  if chip in table:
    return table[chip]
  raise LoadError(
    f'mesh.for_chip names no mesh for {chip!r}, the chip that computes here'
    f'{suggestion(chip, table)}; add it, or leave mesh.for_chip out and name a mesh file'
  )


def chosen_file(chip: str = '') -> str:
  """Finds the mesh file that the loaded gin configuration chooses.

  Args:
    chip: that computes; '' is this process's.

  Returns:
    The file; '' where `mesh.for_chip` is not bound.

  Raises:
    LoadError: the table is wrong or has no such chip, or a mesh is bound beside it.
  """
  if 'for_chip' not in bound('mesh'):
    return ''
  for name, parameter in _BOUND_BY_FILE:
    if parameter in bound(name):
      raise LoadError(
        f'mesh.for_chip and {name}.{parameter} are both bound, and the file of a chip binds '
        f'{name}.{parameter}; keep one'
      )
  table = resolve('mesh').for_chip
  if not table:
    return ''
  return file_of(table, chip or this_chip())


def check_chosen(file: str, table: Mapping[str, str]) -> None:
  """Checks what a mesh file has bound, once it is loaded.

  Args:
    file: `chosen_file`.
    table: `mesh.for_chip` before.

  Raises:
    LoadError: the file names no mesh, or chooses again.
  """
  mesh = resolve('mesh')
  if mesh.for_chip != dict(table):
    raise LoadError(f'{file} is named by mesh.for_chip and binds mesh.for_chip; name a mesh there')
  if not mesh.axes:
    raise LoadError(f'{file} is named by mesh.for_chip and binds no mesh.axes; name a mesh there')
