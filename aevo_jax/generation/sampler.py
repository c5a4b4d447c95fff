"""Decoding, greedy or sampled, in one jitted program per (batch, prompt length) bucket: prefill,
then a while_loop that ends when every row has ended.

Prompts are left-padded to a multiple of `bucket` and sorted by that length, so few programs are
compiled and little padding is read; among equals by their tokens, because prompts that begin alike
end after about as many steps. Every call with the same weights, prompts and thread count gives the
same tokens; a sampled completion depends on its own seed, whatever else is in the batch.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from aevo_jax.models.params import Params, Structure


@functools.partial(jax.jit, static_argnames=('structure', 'max_new_tokens', 'eos_id', 'pad_id'))
def generate(
  structure: Structure,
  params: Params,
  tokens_bt: jax.Array,
  valid_bt: jax.Array,
  seeds_b: jax.Array | None = None,
  temperature: jax.Array | float = 1.0,
  *,
  max_new_tokens: int,
  eos_id: int,
  pad_id: int,
) -> jax.Array:
  """Continuations: greedy, or with `seeds_b` drawn from softmax(logits / temperature).

  Args:
    tokens_bt: left-padded prompts. valid_bt: True where a prompt token is; a row without any is a
      filler and ends at once.
    seeds_b: uint32, one a row; token i of a row is drawn with fold_in(its seed's key, i).
      temperature: > 0.

  Returns:
    [b, max_new_tokens] int32: the end token is included, pad_id follows it.
  """
  model = structure.bind(params)
  logits, state = model.prefill(tokens_bt, valid_bt, max_new_tokens)
  batch = tokens_bt.shape[0]
  out = jnp.full((batch, max_new_tokens), pad_id, jnp.int32)

  if seeds_b is None:
    choose = lambda logits, i: jnp.argmax(logits, axis=-1)
  else:
    keys_b = jax.vmap(jax.random.key)(seeds_b)
    choose = lambda logits, i: jax.vmap(
      lambda key, row: jax.random.categorical(
        jax.random.fold_in(key, i), row.astype(jnp.float32) / temperature
      )
    )(keys_b, logits)

  def going(carry):
    _, i, ended, *_ = carry
    return (i < max_new_tokens) & ~jnp.all(ended)

  def advance(carry):
    out, i, ended, logits, state = carry
    token = jnp.where(ended, pad_id, choose(logits, i).astype(jnp.int32))
    out = jax.lax.dynamic_update_slice_in_dim(out, token[:, None], i, axis=1)
    logits, state = structure.bind(params).step(token, state)
    return out, i + 1, ended | (token == eos_id), logits, state

  return jax.lax.while_loop(
    going, advance, (out, jnp.int32(0), ~jnp.any(valid_bt, axis=1), logits, state)
  )[0]


class Sampler:
  """Decodes many prompts with fixed shapes.

  Args:
    structure: the model's structure; parameters are passed to each call, so one compiled program
      serves every trial.
    batch: rows per program; a CPU's caches hold the activations of about 32 prompts. bucket: prompt
      lengths are rounded up to a multiple of it.
    max_new_tokens: generation stops there if no end token came.
  """

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
    self._structure, self._eos, self._pad = structure, eos_id, pad_id
    self._batch, self._bucket, self._max_new = batch, bucket, max_new_tokens

  def __call__(
    self,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    seeds: Sequence[int] | None = None,
    temperature: float = 1.0,
  ) -> list[list[int]]:
    """Generated ids of each prompt, in the prompts' order, without the end token: greedy, or
    sampled with a seed in [0, 2^32) for each prompt.

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
    completions: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), self._batch):
      chosen = order[start : start + self._batch]
      length = padded[chosen[-1]]
      tokens = np.full((self._batch, length), self._pad, np.int32)
      valid = np.zeros((self._batch, length), bool)
      for row, i in enumerate(chosen):
        tokens[row, length - len(prompts[i]) :] = prompts[i]
        valid[row, length - len(prompts[i]) :] = True
      drawn = (
        ()
        if seeds is None
        else (
          np.array([seeds[i] for i in chosen] + [0] * (self._batch - len(chosen)), np.uint32),
          temperature,
        )
      )
      out = np.asarray(
        generate(
          self._structure,
          params,
          tokens,
          valid,
          *drawn,
          max_new_tokens=self._max_new,
          eos_id=self._eos,
          pad_id=self._pad,
        )
      )
      for row, i in enumerate(chosen):
        ids = out[row].tolist()
        end = next((k for k, token in enumerate(ids) if token == self._eos), len(ids))
        completions[i] = ids[:end]
    return completions
