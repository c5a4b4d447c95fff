"""Blocks that repeat, compiled once.

The pattern is cut into segments, each a unit of blocks and how often it repeats, and each segment
is one scan.

    'MEMEM*E' * 5 + 'MEMEMEM*E' + 'MEMEMEME'  ->  ('MEMEM*E', 5), ('ME', 3), ('M*E', 1), ('ME', 4):
    14 blocks to trace and compile instead of 52

While training, a unit's parameters lie stacked along a leading axis 'layers', as
`segments.0.2.mixer.q_proj.kernel` [5, in, out]; everywhere else (checkpoints of models, digests,
Hugging Face) they are `layers.2...`, `layers.9...` and so on. `stack` and `unstack` go from one to
the other.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from aevo_jax.models.decoder import Block, Decoder, Segments, run_block

LAYERS = 'layers'  # the logical axis of what is stacked
_CANONICAL = re.compile(r'layers\.(\d+)\.(.*)')
_STACKED = re.compile(r'segments\.(\d+)\.(\d+)\.(.*)')


class Segment(NamedTuple):
  """Blocks start, start + 1, ... of the pattern: `unit`, `repeats` times over."""

  start: int
  unit: str
  repeats: int


class _Cut(NamedTuple):
  """A way to cut the end of a pattern: how many blocks it traces, and its segments."""

  traced: int
  segments: tuple[Segment, ...]

  def cost(self) -> tuple[int, int]:
    return self.traced, len(self.segments)


@functools.cache
def segments(pattern: str) -> tuple[Segment, ...]:
  """Cuts a pattern.

  Args:
    pattern: of a ModelConfig.

  Returns:
    The cut with the fewest blocks to trace; among equals, one with the fewest segments.
  """
  best = [_Cut(0, ())] * (len(pattern) + 1)
  for start in reversed(range(len(pattern))):
    options = []
    for length in range(1, len(pattern) - start + 1):
      unit = pattern[start : start + length]
      repeats = 1
      while True:
        rest = best[start + length * repeats]
        segment = Segment(start, unit, repeats)
        options.append(_Cut(rest.traced + length, (segment, *rest.segments)))
        if not pattern.startswith(unit, start + length * repeats):
          break
        repeats += 1
    best[start] = min(options, key=_Cut.cost)
  return best[0].segments


def is_stacked(name: str) -> bool:
  """Tells whether a parameter's first axis runs over repeats of a unit, by its name."""
  return _STACKED.fullmatch(name) is not None


def members(name: str, pattern: str) -> tuple[str, ...]:
  """Lists the canonical parameters that lie in a stacked one.

  Args:
    name: of a parameter, stacked or not.
    pattern: of the model.

  Returns:
    Their names in the order of the first axis; of any other parameter its name alone.
  """
  match = _STACKED.fullmatch(name)
  if match is None:
    return (name,)
  segment = segments(pattern)[int(match[1])]
  first = segment.start + int(match[2])
  numbers = range(first, first + segment.repeats * len(segment.unit), len(segment.unit))
  return tuple(f'layers.{number}.{match[3]}' for number in numbers)


def stack(params: Mapping[str, Any], pattern: str) -> dict[str, Any]:
  """Stacks parameters as `Scanned` has them.

  Args:
    params: canonical parameters, arrays or shapes.
    pattern: of the model.

  Returns:
    Those of blocks stacked, the others as they are.
  """
  stacked = {}
  leaves: dict[int, list[str]] = {}
  for name, value in params.items():
    match = _CANONICAL.fullmatch(name)
    if match is None:
      stacked[name] = value
    else:
      leaves.setdefault(int(match[1]), []).append(match[2])
  for number, segment in enumerate(segments(pattern)):
    for i in range(len(segment.unit)):
      for leaf in leaves.get(segment.start + i, ()):
        name = f'segments.{number}.{i}.{leaf}'
        stacked[name] = _together([params[member] for member in members(name, pattern)])
  return stacked


def unstack(params: Mapping[str, Any], pattern: str) -> dict[str, Any]:
  """Inverts `stack`.

  Args:
    params: as `Scanned` has them.
    pattern: of the model.

  Returns:
    Canonical parameters.
  """
  canonical = {}
  for name, value in params.items():
    if not is_stacked(name):
      canonical[name] = value
      continue
    for row, member in enumerate(members(name, pattern)):
      canonical[member] = value[row]
  return canonical


class Scanned(Decoder):
  """A decoder (of arrays or of shapes) whose segments are scanned.

  Caches are one tuple a segment, of stacked caches of its blocks.

  Raises:
    ValueError: blocks that share a compiled unit differ, because an adapter is on some of them
      only.
  """

  def __init__(self, model: Decoder):
    self.config = model.config
    self.embedding = model.embedding
    self.norm_f = model.norm_f
    self.lm_head = model.lm_head
    units = []
    for segment in segments(model.config.pattern):
      length = len(segment.unit)
      unit = []
      for first in range(segment.start, segment.start + length):
        numbers = range(first, first + length * segment.repeats, length)
        unit.append(_stacked_block([model.layers[number] for number in numbers], first))
      units.append(nnx.List(unit))
    self.segments = nnx.List(units)

  def _blocks(
    self, x: Float[Array, 'batch time width'], rows: Segments
  ) -> tuple[Float[Array, 'batch time width'], list[Float[Array, ' experts']]]:
    def run(scanned, blocks, x, _):
      loads = []
      for block in blocks:
        x, load = run_block(self.config.remat_policy, block, x, rows, scanned=scanned)
        if load is not None:
          loads.append(load)
      return x, loads

    all_loads = []
    cut = segments(self.config.pattern)
    for blocks, segment in zip(self.segments, cut, strict=True):
      # XLA writes a loop of one repeat out. In a loop over several blocks, nothing but a barrier
      # keeps it from computing all of them again at once, with memory for all.
      alone = segment.repeats > 1 and len(segment.unit) == 1
      x, loads = _scan(functools.partial(run, alone), blocks, x)
      # In the order of the pattern: all E blocks of the first repeat, then those of the second.
      for repeat in range(segment.repeats):
        all_loads += [load[repeat] for load in loads]
    return x, all_loads

  def _prefill_blocks(
    self,
    x: Float[Array, 'batch time width'],
    segment_ids_bt: Int[Array, 'batch time'],
    room: int,
  ) -> tuple[Float[Array, 'batch wanted width'], tuple]:
    def run(blocks, x, _):
      caches = []
      for block in blocks:
        x, cache = block.prefill(x, segment_ids_bt, room)
        caches.append(cache)
      return x, tuple(caches)

    caches = []
    for segment in self.segments:
      x, cache = _scan(run, segment, x)
      caches.append(cache)
    return x, tuple(caches)

  def _step_blocks(
    self,
    x: Float[Array, 'batch width'],
    caches: tuple,
    position: Int[Array, ''],
    valid_bt: Bool[Array, 'batch time'],
  ) -> tuple[Float[Array, 'batch width'], tuple]:
    def run(blocks, x, before):
      after = []
      for block, cache in zip(blocks, before, strict=True):
        x, cache = block.step(x, cache, position, valid_bt)
        after.append(cache)
      return x, tuple(after)

    after = []
    for segment, before in zip(self.segments, caches, strict=True):
      x, cache = _scan(run, segment, x, before)
      after.append(cache)
    return x, tuple(after)


def _scan(
  run: Callable, segment: Any, x: Float[Array, '*shape'], each: Any = None
) -> tuple[Float[Array, '*shape'], Any]:
  """Carries x through run(blocks, x, each[r]) for every repeat r; stacks the second results."""
  graphdef, state = nnx.split(segment)

  def body(x, inputs):
    state, each_repeat = inputs
    return run(nnx.merge(graphdef, state), x, each_repeat)

  return jax.lax.scan(body, x, (state, each))


def _stacked_block(blocks: list[Block], number: int) -> Block:
  """Makes one block with the parameters of all along a leading axis."""
  graphdef, first = nnx.split(blocks[0])
  states = [first]
  for block in blocks[1:]:
    states.append(nnx.state(block))
  if any(jax.tree.structure(state) != jax.tree.structure(first) for state in states):
    raise ValueError(
      f'layers.{number} and the layers that repeat it have different adapters, and a scan '
      'compiles them once; '
      'target all of them in lora.targets, or bind model.scan = False'
    )
  stacked = jax.tree.map(
    _stack_variables, *states, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
  )
  return nnx.merge(graphdef, stacked)


def _stack_variables(*variables: nnx.Variable) -> nnx.Variable:
  return nnx.Param(
    _together([variable.get_value() for variable in variables]),
    logical_axes=(LAYERS, *variables[0].get_metadata()['logical_axes']),
  )


def _together(values: list) -> jax.Array | jax.ShapeDtypeStruct:
  """Stacks arrays or shapes along a new first axis."""
  first = values[0]
  if isinstance(first, jax.ShapeDtypeStruct):
    return jax.ShapeDtypeStruct((len(values), *first.shape), first.dtype)
  return jnp.stack(values)
