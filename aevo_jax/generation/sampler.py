"""The sampler: greedy or sampled decoding of many prompts with fixed shapes.

One program is jitted per (batch, prompt length) bucket: prefill, then a while_loop that ends when
every row has ended. Prompts are left-padded to a multiple of `bucket` and sorted by that length, so
few programs are compiled and little padding is read; among equals by their tokens, because prompts
that begin alike end after about as many steps. Every call with the same weights, prompts and thread
count gives the same tokens; a sampled completion depends on its own seed, whatever else is in the
batch. On a mesh (`sharding.context`) rows lie by the rules of `Layout.of_generation`.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Key, UInt32

from aevo_jax.models.decoder import DecodeState
from aevo_jax.models.params import Params, Structure
from aevo_jax.sharding.context import constrain, layout_in_use


class Noise(NamedTuple):
  """What makes decoding random: token i of a row is sampled with fold_in(its seed's key, i).

  Attributes:
    seeds: one a row.
    temperature: divides the logits, > 0.
  """

  seeds: UInt32[Any, ' batch']
  temperature: Float[Array, ''] | float = 1.0


class _Progress(NamedTuple):
  """State of the decoding loop after `step` tokens."""

  tokens: Int32[Array, 'batch new']
  step: Int32[Array, '']
  ended: Bool[Array, ' batch']
  logits: Float[Array, 'batch vocab']
  state: DecodeState


@functools.partial(jax.jit, static_argnames=('structure', 'max_new_tokens', 'eos_id', 'pad_id'))
def generate(
  structure: Structure,
  params: Params,
  tokens_bt: Int[Array, 'batch time'],
  valid_bt: Bool[Array, 'batch time'],
  noise: Noise | None = None,
  *,
  max_new_tokens: int,
  eos_id: int,
  pad_id: int,
) -> Int32[Array, 'batch new']:
  """Continues prompts: greedily, or with `noise` sampled from softmax(logits / temperature).

  Args:
    structure: the model's.
    params: by name.
    tokens_bt: left-padded prompts.
    valid_bt: True where a prompt token is; a row without any is a filler and ends at once.
    noise: seeds and temperature; None is greedy.
    max_new_tokens: n, where a row ends that had no end token.
    eos_id: the end token, which is part of the result.
    pad_id: follows the end token.

  Returns:
    The new tokens of every row.
  """
  model = structure.bind(params)
  tokens_bt = constrain(tokens_bt, 'batch', None)
  valid_bt = constrain(valid_bt, 'batch', None)
  logits, state = model.prefill(tokens_bt, valid_bt, max_new_tokens)
  tokens = jnp.full((tokens_bt.shape[0], max_new_tokens), pad_id, jnp.int32)
  keys_b = None if noise is None else jax.vmap(jax.random.key)(noise.seeds)

  def choose(logits: Float[Array, 'batch vocab'], step: Int32[Array, '']) -> Int[Array, ' batch']:
    if noise is None or keys_b is None:
      return jnp.argmax(logits, axis=-1)

    def categorical(key: Key[Array, ''], row: Float[Array, ' vocab']) -> Int[Array, '']:
      scaled = row.astype(jnp.float32) / noise.temperature
      return jax.random.categorical(jax.random.fold_in(key, step), scaled)

    return jax.vmap(categorical)(keys_b, logits)

  def unfinished(progress: _Progress) -> Bool[Array, '']:
    return (progress.step < max_new_tokens) & ~jnp.all(progress.ended)

  def advance(progress: _Progress) -> _Progress:
    chosen = choose(progress.logits, progress.step).astype(jnp.int32)
    token = jnp.where(progress.ended, pad_id, chosen)
    tokens = jax.lax.dynamic_update_slice_in_dim(
      progress.tokens, token[:, None], progress.step, axis=1
    )
    logits, state = structure.bind(params).step(token, progress.state)
    ended = progress.ended | (token == eos_id)
    return _Progress(tokens, progress.step + 1, ended, logits, state)

  start = _Progress(tokens, jnp.int32(0), ~jnp.any(valid_bt, axis=1), logits, state)
  return jax.lax.while_loop(unfinished, advance, start).tokens


class Sampler:
  """Decodes many prompts with fixed shapes."""

  def __init__(
    self,
    structure: Structure,
    *,
    eos_id: int,
    pad_id: int,
    batch: int = 32,
    bucket: int = 16,
    max_new_tokens: int = 40,
  ):
    """Makes a sampler; parameters are passed to each call, so one program serves every trial.

    Args:
      structure: the model's.
      eos_id: the end token.
      pad_id: fills prompts on the left.
      batch: rows per program, at least; a CPU's caches hold the activations of about 32 prompts.
      bucket: prompt lengths are rounded up to a multiple of it.
      max_new_tokens: generation stops there if no end token came.
    """
    self._structure = structure
    self._eos = eos_id
    self._pad = pad_id
    self._batch = batch
    self._bucket = bucket
    self._max_new = max_new_tokens

  def __call__(
    self,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    seeds: Sequence[int] | None = None,
    temperature: float = 1.0,
  ) -> list[list[int]]:
    """Generates, greedily or sampled.

    Args:
      params: by name.
      prompts: token ids, at least one each.
      seeds: in [0, 2^32), one for each prompt; None is greedy.
      temperature: > 0, read with seeds alone.

    Returns:
      The new ids of each prompt, in the prompts' order, without the end token.

    Raises:
      ValueError: a prompt without a token; there is nothing to continue.
    """
    for i, prompt in enumerate(prompts):
      if not len(prompt):
        raise ValueError(
          f"prompt {i} is empty; give it at least one token, e.g. the tokenizer's <|bos|>"
        )
    padded = [-(-len(prompt) // self._bucket) * self._bucket for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (padded[i], tuple(prompts[i])))
    completions: list[list[int]] = [[]] * len(prompts)
    batch = self._rows()
    for start in range(0, len(order), batch):
      chosen = order[start : start + batch]
      rows = [prompts[i] for i in chosen]
      row_seeds = None if seeds is None else [seeds[i] for i in chosen]
      length = padded[chosen[-1]]
      for i, ids in zip(
        chosen, self._decode(params, rows, length, row_seeds, temperature), strict=True
      ):
        completions[i] = ids
    return completions

  def _rows(self) -> int:
    """Returns the rows of a program; on a mesh the next number that its rules divide."""
    layout = layout_in_use()
    if layout is None:
      return self._batch
    parts = layout.shards('batch')
    return -(-self._batch // parts) * parts

  def _decode(
    self,
    params: Params,
    prompts: Sequence[Sequence[int]],
    length: int,
    seeds: Sequence[int] | None,
    temperature: float,
  ) -> list[list[int]]:
    """Runs the program on up to `_rows` prompts, padded to `length`; fillers are left out."""
    batch = self._rows()
    tokens = np.full((batch, length), self._pad, np.int32)
    valid = np.zeros((batch, length), bool)
    for row, prompt in enumerate(prompts):
      tokens[row, length - len(prompt) :] = prompt
      valid[row, length - len(prompt) :] = True
    noise = None
    if seeds is not None:
      fillers = [0] * (batch - len(seeds))
      noise = Noise(np.array([*seeds, *fillers], np.uint32), temperature)
    out = generate(
      self._structure,
      params,
      tokens,
      valid,
      noise,
      max_new_tokens=self._max_new,
      eos_id=self._eos,
      pad_id=self._pad,
    )
    completions = []
    for ids in np.asarray(out)[: len(prompts)].tolist():
      end = ids.index(self._eos) if self._eos in ids else len(ids)
      completions.append(ids[:end])
    return completions
