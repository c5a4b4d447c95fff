"""Blocks that repeat, compiled once: the pattern is cut into segments, each a unit of blocks and
how often it repeats, and each segment is one scan.

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

from aevo_jax.models.decoder import Decoder, run_block
from aevo_jax.models.layers.shared_prefix import SharedPrefix

LAYERS = 'layers'  # the logical axis of what is stacked
_CANONICAL = re.compile(r'layers\.(\d+)\.(.*)')
_STACKED = re.compile(r'segments\.(\d+)\.(\d+)\.(.*)')


class Segment(NamedTuple):
  """Blocks start, start + 1, ... of the pattern: `unit`, `repeats` times over."""

  start: int
  unit: str
  repeats: int


@functools.cache
def segments(pattern: str) -> tuple[Segment, ...]:
  """The cut with the fewest blocks to trace; among equals, the one with the fewest segments."""
  best: list[tuple[int, int, tuple[Segment, ...]]] = [(0, 0, ())] * (len(pattern) + 1)
  for start in reversed(range(len(pattern))):
    options = []
    for length in range(1, len(pattern) - start + 1):
      unit, repeats = pattern[start : start + length], 1
      while True:
        traced, count, rest = best[start + length * repeats]
        options.append((traced + length, count + 1, (Segment(start, unit, repeats), *rest)))
        if not pattern.startswith(unit, start + length * repeats):
          break
        repeats += 1
    best[start] = min(options, key=lambda option: option[:2])
  return best[0][2]


def is_stacked(name: str) -> bool:
  """Whether a parameter's first axis runs over repeats of a unit."""
  return _STACKED.fullmatch(name) is not None


def members(name: str, pattern: str) -> tuple[str, ...]:
  """The canonical parameters that lie in a stacked one, in order; of any other, its own name."""
  match = _STACKED.fullmatch(name)
  if match is None:
    return (name,)
  start, unit, repeats = segments(pattern)[int(match[1])]
  return tuple(f'layers.{start + int(match[2]) + r * len(unit)}.{match[3]}' for r in range(repeats))


def stack(params: Mapping[str, Any], pattern: str) -> dict[str, Any]:
  """Canonical parameters (arrays or shapes) as `Scanned` has them."""
  stacked = {name: value for name, value in params.items() if not _CANONICAL.fullmatch(name)}
  leaves: dict[int, list[str]] = {}
  for name in params:
    if match := _CANONICAL.fullmatch(name):
      leaves.setdefault(int(match[1]), []).append(match[2])
  for s, (start, unit, _) in enumerate(segments(pattern)):
    for i in range(len(unit)):
      for leaf in leaves.get(start + i, ()):
        name = f'segments.{s}.{i}.{leaf}'
        stacked[name] = _together([params[member] for member in members(name, pattern)])
  return stacked


def unstack(params: Mapping[str, Any], pattern: str) -> dict[str, Any]:
  """The inverse of `stack`."""
  canonical = {}
  for name, value in params.items():
    canonical |= (
      {member: value[r] for r, member in enumerate(members(name, pattern))}
      if is_stacked(name)
      else {name: value}
    )
  return canonical


class Scanned(Decoder):
  """A decoder (of arrays or of shapes) whose segments are scanned. Caches are one tuple a segment,
  of stacked caches of its blocks.

  Raises:
    ValueError: blocks that share a compiled unit differ, because an adapter is on some of them
      only.
  """

  def __init__(self, model: Decoder):
    self.config, self.embedding, self.norm_f, self.lm_head = (
      model.config,
      model.embedding,
      model.norm_f,
      model.lm_head,
    )
    self.segments = nnx.List(
      [
        nnx.List(
          [
            _stacked_block(
              [model.layers[n] for n in range(start + i, start + len(unit) * repeats, len(unit))],
              start + i,
            )
            for i in range(len(unit))
          ]
        )
        for start, unit, repeats in segments(model.config.pattern)
      ]
    )

  def _blocks(
    self, x: jax.Array, segments_of_rows: jax.Array | SharedPrefix
  ) -> tuple[jax.Array, list[jax.Array]]:
    def run(scanned, blocks, x, _):
      loads = []
      for block in blocks:
        x, load = run_block(self.config.remat_policy, block, x, segments_of_rows, scanned=scanned)
        loads += [] if load is None else [load]
      return x, loads

    all_loads = []
    for segment, (_, _, repeats) in zip(self.segments, segments(self.config.pattern)):
      x, loads = _scan(
        functools.partial(run, repeats > 1), segment, x
      )  # XLA writes a loop of one repeat out
      # In the order of the pattern: all E blocks of the first repeat, then those of the second.
      all_loads += [load[r] for r in range(loads[0].shape[0]) for load in loads] if loads else []
    return x, all_loads

  def _prefill_blocks(
    self, x: jax.Array, segment_ids_bt: jax.Array, room: int
  ) -> tuple[jax.Array, tuple]:
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
    self, x: jax.Array, caches: tuple, position: jax.Array, valid_bt: jax.Array
  ) -> tuple[jax.Array, tuple]:
    def run(blocks, x, before):
      after = []
      for block, cache in zip(blocks, before):
        x, cache = block.step(x, cache, position, valid_bt)
        after.append(cache)
      return x, tuple(after)

    after = []
    for segment, before in zip(self.segments, caches):
      x, cache = _scan(run, segment, x, before)
      after.append(cache)
    return x, tuple(after)


def _scan(
  run: Callable, segment: nnx.List, x: jax.Array, each: Any = None
) -> tuple[jax.Array, Any]:
  """Carries x through run(blocks, x, each[r]) for every repeat r; returns x and the stacked second
  results.
  """
  graphdef, state = nnx.split(segment)
  return jax.lax.scan(
    lambda x, inputs: run(nnx.merge(graphdef, inputs[0]), x, inputs[1]), x, (state, each)
  )


def _stacked_block(blocks: list, number: int):
  """One block with the parameters of all along a leading axis."""
  graphdef, first = nnx.split(blocks[0])
  states = [first, *(nnx.state(block) for block in blocks[1:])]
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
    _together([v.get_value() for v in variables]),
    logical_axes=(LAYERS, *variables[0].get_metadata()['logical_axes']),
  )


def _together(values: list) -> jax.Array | jax.ShapeDtypeStruct:
  if isinstance(values[0], jax.ShapeDtypeStruct):
    return jax.ShapeDtypeStruct((len(values), *values[0].shape), values[0].dtype)
  return jnp.stack(values)
