"""What a device can do, from configs/hardware/*.gin, and how long a step takes there at least."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt

from aevo_jax.config import loading
from aevo_jax.config.configurables import configurable, resolve

_Positive = Annotated[float, Gt(0)]


@configurable('hardware')
@dataclasses.dataclass(frozen=True)
class Hardware:
  """A kind of device; decimal units, as datasheets have them.

  Attributes:
    memory_gb: of a device.
    peak_tflops: dense bfloat16 products.
    memory_tb_s: bandwidth of that memory.
    devices_of_host: that fast links join; 0 joins all.
    link_gb_s: that a device sends over fast links, one way.
    network_gb_s: that a device sends to other hosts, one way.
  """

  memory_gb: _Positive = 141.0
  peak_tflops: _Positive = 989.0
  memory_tb_s: _Positive = 4.8
  devices_of_host: Annotated[int, Ge(0)] = 8
  link_gb_s: _Positive = 450.0
  network_gb_s: _Positive = 50.0

  def is_within_host(self, axes: Sequence[str], mesh: Mapping[str, int]) -> bool:
    """Tells whether devices that differ along some axes are joined by fast links.

    Args:
      axes: of the mesh.
      mesh: {axis: size}; devices count through its last axis first.

    Returns:
      False where a group of them spans hosts.
    """
    if not self.devices_of_host:
      return True
    stride = 1
    furthest = 0
    for axis, size in reversed(mesh.items()):
      if axis in axes:
        furthest += stride * (size - 1)
      stride *= size
    return furthest < self.devices_of_host or math.prod(mesh.values()) <= self.devices_of_host


def load_hardware(name: str, search_paths: Sequence[str], bindings: Sequence[str] = ()) -> Hardware:
  """Reads configs/hardware/NAME.gin; what was loaded before is forgotten.

  Args:
    name: of the file.
    search_paths: directories that have configs/.
    bindings: over the file's.

  Returns:
    The device.

  Raises:
    LoadError: there is no such file, or a binding is wrong.
  """
  loading.load([f'configs/hardware/{name}.gin'], bindings, search_paths=search_paths)
  return resolve('hardware')


def largest_batch(hardware: Hardware, state: int, temporary: Mapping[int, int]) -> int:
  """Returns how many rows fit, by a straight line through what two batches take.

  Args:
    hardware: whose memory is filled.
    state: bytes that no batch changes.
    temporary: bytes beside them, by the rows of two batches.

  Returns:
    A multiple of the smaller batch; 0 where not even that fits.
  """
  fewer, more = sorted(temporary)
  slope = (temporary[more] - temporary[fewer]) / (more - fewer)
  free = hardware.memory_gb * 1e9 - state - temporary[fewer]
  if free < 0:
    return 0
  return fewer * (1 + math.floor(free / (slope * fewer)))


class Roofline(NamedTuple):
  """How long a step takes at least, in seconds, by what bounds it.

  Attributes:
    useful: the products that the step cannot do without, at the peak.
    products: those that were compiled.
    memory: what is held when the step begins, read once.
    links: what is sent within hosts.
    network: what is sent between hosts.
  """

  useful: float
  products: float
  memory: float
  links: float
  network: float

  @property
  def shortest(self) -> float:
    """Nothing is computed twice, and everything that is sent hides behind products."""
    return max(self.useful, self.memory, self.links, self.network)

  @property
  def longest(self) -> float:
    """Everything that was compiled, one after the other."""
    return self.products + self.memory + self.links + self.network


def roofline(hardware: Hardware, mesh: Mapping[str, int], compiled: Mapping[str, Any]) -> Roofline:
  """Bounds the time of a step.

  Args:
    hardware: of the devices.
    mesh: {axis: size}.
    compiled: of a device: `compiled_flops`, `useful_flops`, `arguments` in bytes, and `collectives`
      with `axes` and `wire_bytes` of a step each.

  Returns:
    The bounds.
  """
  links = 0.0
  network = 0.0
  for one in compiled['collectives']:
    if hardware.is_within_host(one['axes'], mesh):
      links += one['wire_bytes'] / (hardware.link_gb_s * 1e9)
    else:
      network += one['wire_bytes'] / (hardware.network_gb_s * 1e9)
  peak = hardware.peak_tflops * 1e12
  memory = compiled['arguments'] / (hardware.memory_tb_s * 1e12)
  useful = compiled['useful_flops'] / peak
  return Roofline(useful, compiled['compiled_flops'] / peak, memory, links, network)
