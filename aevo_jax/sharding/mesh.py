"""Named device meshes from gin.

Axes lie within a slice of fast links, or run across hosts or slices.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from aevo_jax.config.configurables import configurable


@configurable('mesh')
@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Mesh axes and their sizes.

  Attributes:
    axes: {axis: size} within a host or slice, whose links are fast. One size of all may be -1:
      whatever is left. Empty: no mesh.
    hosts: {axis: size} across hosts or slices; they come first in the mesh.
    for_chip: {chip: mesh file}, in place of the others and of the rules: the file of the chip that
      computes is loaded (`sharding.chips`). Empty: no choice.
  """

  axes: dict[str, int] = dataclasses.field(default_factory=dict)
  hosts: dict[str, int] = dataclasses.field(default_factory=dict)
  for_chip: dict[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for chip in self.for_chip:
      if chip != chip.lower():
        raise ValueError(f'for_chip: chips are in lower case; write {chip.lower()!r} for {chip!r}')
    both = sorted(self.axes.keys() & self.hosts.keys())
    if both:
      raise ValueError(
        f'axes and hosts both name {both}; give the axis across hosts another name, and a '
        'rule may list the two'
      )
    sizes = self.hosts | self.axes
    for axis, size in sizes.items():
      if size < 1 and size != -1:
        raise ValueError(
          f'mesh axis {axis!r} has size {size}; bind a size >= 1, or -1 for whatever is left'
        )
    if list(sizes.values()).count(-1) > 1:
      raise ValueError(f'mesh axes {sizes}: only one size may be -1')
    if self.hosts and not self.axes:
      raise ValueError('hosts without axes; a mesh that has no axis within a host binds axes alone')

  def sizes(self, devices: int) -> dict[str, int]:
    """Resolves the sizes on some devices.

    Args:
      devices: how many there are.

    Returns:
      {axis: size}, hosts first.

    Raises:
      ValueError: the sizes' product is not the number of devices.
    """
    if self.for_chip and not self.axes:
      raise ValueError(
        'mesh.for_chip chooses by chip, and nothing has chosen here; name one of its files: '
        f'{", ".join(dict.fromkeys(self.for_chip.values()))}'
      )
    sizes = self.hosts | self.axes
    known = abs(math.prod(sizes.values()))  # one size at most is -1
    resolved = dict(sizes)
    needed = str(known)
    for axis, size in sizes.items():
      if size == -1:
        resolved[axis] = devices // known
        needed = f'a multiple of {known}'
    if math.prod(resolved.values()) != devices or 0 in resolved.values():
      raise ValueError(
        f'mesh axes {sizes} need {needed} devices and there are {devices}; bind '
        f'mesh.axes to sizes whose product is {devices}, '
        'or one of them to -1'
      )
    return resolved


def create(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Makes the mesh.

  Args:
    config: its axes.
    devices: to lay it over; None for all. Where they belong to several slices or processes,
      `hosts` axes run across those.

  Returns:
    The mesh, with axes that XLA partitions.
  """
  devices = list(devices or jax.devices())
  sizes = config.sizes(len(devices))
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  processes = len({device.process_index for device in devices})
  if config.hosts and max(slices, processes) > 1:
    across = dict.fromkeys(sizes, 1)
    for axis in config.hosts:
      across[axis] = sizes[axis]
    within = sizes | dict.fromkeys(config.hosts, 1)
    array = mesh_utils.create_hybrid_device_mesh(
      list(within.values()), list(across.values()), devices, process_is_granule=slices == 1
    )
  else:
    array = mesh_utils.create_device_mesh(
      tuple(sizes.values()), devices, allow_split_physical_axes=True
    )
  return Mesh(np.asarray(array), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
