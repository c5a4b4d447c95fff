"""What devices send each other in a step: by kind, mesh axis and dtype, with trips and bytes."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aevo_jax.analysis.hlo import Executed, Module, shapes

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
# Their results are pairs of all operands and all results.
_WITH_OPERANDS = ('all-gather-start', 'reduce-scatter-start', 'all-to-all-start')
_LISTED = re.compile(r'replica_groups=\{(\{[\d,{}]*\})\}')
_IOTA = re.compile(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')
# A mesh that lists its devices in another order is an unknown spelling, not this one.
_NAMED = re.compile(r'replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}')
_PAIRS = re.compile(r'source_target_pairs=\{([\d,{}]*)\}')
_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")

Groups = list[list[int]]


class Collective(NamedTuple):
  """One collective operation of a program.

  Attributes:
    kind: one of `KINDS`.
    axes: the mesh axes along which the devices of a group differ.
    dtype: of what is sent, in HLO's words.
    times: how often a step runs it.
    result_bytes: of its results on a device, each time.
    wire_bytes: that a device sends each time, by the ring algorithm.
    op_name: the path of JAX's functions in which it was made.
    source: the line of code that made it.
  """

  kind: str
  axes: tuple[str, ...]
  dtype: str
  times: int
  result_bytes: int
  wire_bytes: float
  op_name: str
  source: str


def collectives(module: Module, mesh: Mapping[str, int]) -> list[Collective]:
  """Lists the collectives of a program.

  Args:
    module: partitioned for the mesh.
    mesh: {axis: size}, in the mesh's order.

  Returns:
    Every operation that more than one device takes part in.

  Raises:
    ValueError: groups of devices in a spelling that is not known.
  """
  found = []
  for executed in module.executed():
    collective = collective_of(executed, module, mesh)
    if collective is not None:
      found.append(collective)
  return found


def collective_of(executed: Executed, module: Module, mesh: Mapping[str, int]) -> Collective | None:
  """Reads one instruction.

  Args:
    executed: of the module.
    module: partitioned for the mesh.
    mesh: {axis: size}, in the mesh's order.

  Returns:
    The collective; None where it is none, or of one device.

  Raises:
    ValueError: groups of devices in a spelling that is not known.
  """
  kind = executed.instruction.opcode.removesuffix('-start')
  if kind not in KINDS:
    return None
  size, axes = _along(executed, mesh)
  if size == 1:
    return None
  results = _results(executed)
  total = sum(shape.bytes for shape in results)
  return Collective(
    kind,
    axes,
    max(results, key=lambda shape: shape.bytes).dtype,
    executed.times,
    total,
    _wire_bytes(kind, total, size),
    executed.instruction.op_name,
    module.source(executed.instruction),
  )


def _results(executed: Executed) -> list:
  """Returns the shapes of what a collective gives; an asynchronous one also carries operands."""
  instruction = executed.instruction
  found = shapes(instruction.result)
  if instruction.opcode == 'collective-permute-start':
    return found[1:2]
  if instruction.opcode in _WITH_OPERANDS:
    return found[len(found) // 2 :]
  return found


def _wire_bytes(kind: str, result_bytes: int, size: int) -> float:
  """Returns the bytes that a device of a group of `size` sends along a ring."""
  share = (size - 1) / size
  if kind == 'all-reduce':
    return 2 * share * result_bytes
  if kind == 'reduce-scatter':
    return (size - 1) * result_bytes
  if kind == 'collective-permute':
    return float(result_bytes)
  return share * result_bytes


def _along(executed: Executed, mesh: Mapping[str, int]) -> tuple[int, tuple[str, ...]]:
  """Returns how many devices a group has, and along which mesh axes they differ."""
  groups = _groups(executed, math.prod(mesh.values()))
  axes = []
  coordinates = [_coordinates(device, tuple(mesh.values())) for device in max(groups, key=len)]
  if executed.instruction.opcode.startswith('collective-permute'):
    pairs = [[_coordinates(device, tuple(mesh.values())) for device in pair] for pair in groups]
    for number, axis in enumerate(mesh):
      if any(source[number] != target[number] for source, target in pairs):
        axes.append(axis)
    return (2 if axes else 1), tuple(axes)
  for number, axis in enumerate(mesh):
    if len({coordinate[number] for coordinate in coordinates}) > 1:
      axes.append(axis)
  return len(coordinates), tuple(axes)


def _coordinates(device: int, sizes: Sequence[int]) -> tuple[int, ...]:
  """Returns where a device lies in the mesh; devices count through its last axis first."""
  coordinates = []
  for size in reversed(sizes):
    coordinates.append(device % size)
    device //= size
  return tuple(reversed(coordinates))


def _groups(executed: Executed, devices: int) -> Groups:
  """Reads the groups of devices, or the pairs of a permutation."""
  text = executed.instruction.rest
  pairs = _PAIRS.search(text)
  listed = _LISTED.search(text)
  if pairs or listed:
    found = (pairs or listed)[1]
    return [[int(d) for d in group.split(',')] for group in re.findall(r'\{([\d,]+)\}', found)]
  iota = _IOTA.search(text)
  if iota:
    return _from_iota(_numbers(iota[1]), _numbers(iota[2]), _numbers(iota[3] or ''))
  named = _NAMED.search(text)
  if named:
    return _from_axes(named[1], named[2])
  if 'replica_groups={}' in text or 'replica_groups=' not in text:
    return [list(range(devices))]
  raise ValueError(f'groups of devices in an unknown spelling: {text[:300]}')


def _numbers(text: str) -> list[int]:
  return [int(number) for number in text.split(',') if number]


def _from_iota(result: list[int], sizes: list[int], order: list[int]) -> Groups:
  """Expands `[groups, devices of each]<=[sizes]T(order)`."""
  ranges = [range(size) for size in sizes]
  order = order or list(range(len(sizes)))
  strides = [math.prod(sizes[dimension + 1 :]) for dimension in range(len(sizes))]
  devices = []
  for coordinate in itertools.product(*(ranges[dimension] for dimension in order)):
    devices.append(sum(c * strides[d] for c, d in zip(coordinate, order, strict=True)))
  width = result[-1]
  return [devices[start : start + width] for start in range(0, len(devices), width)]


def _from_axes(mesh: str, axes: str) -> Groups:
  """Expands `mesh['a'=2,'b'=4] {'b'}`; a part of an axis is 'b':(what is before it)size."""
  sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
  grouped = {}
  for name, before, size in _AXIS.findall(axes):
    grouped[name] = (int(before or 1), int(size or sizes[name]))
  by_rest: dict[tuple[int, ...], list[int]] = {}
  for device, coordinate in enumerate(itertools.product(*(range(s) for s in sizes.values()))):
    rest = []
    for name, position in zip(sizes, coordinate, strict=True):
      before, size = grouped.get(name, (1, 1))
      after = sizes[name] // (before * size)
      rest += [position // (size * after), position % after]
    by_rest.setdefault(tuple(rest), []).append(device)
  return list(by_rest.values())


class Total(NamedTuple):
  """All collectives of a kind along the same axes: how many run, and their bytes, in a step."""

  kind: str
  axes: tuple[str, ...]
  dtype: str
  operations: int
  times: int
  result_bytes: int
  wire_bytes: float


def totals(found: Sequence[Collective]) -> list[Total]:
  """Adds collectives up by kind, axes and dtype; the most bytes first."""
  by_key: dict[tuple, list[Collective]] = {}
  for one in found:
    by_key.setdefault((one.kind, one.axes, one.dtype), []).append(one)
  added = []
  for key, group in by_key.items():
    added.append(
      Total(
        *key,
        len(group),
        sum(one.times for one in group),
        sum(one.times * one.result_bytes for one in group),
        sum(one.times * one.wire_bytes for one in group),
      )
    )
  return sorted(added, key=lambda total: -total.wire_bytes)
