"""Statistics of every token of packed rows, without the logits of all tokens at once.

The output head is applied to `chunk` positions of every row at a time, and again in the backward
pass. So the float32 logits of one chunk are the largest array there is: rows * chunk * vocabulary
in place of rows * length * vocabulary. With chunk = 0 everything is one product, which is faster
where the vocabulary is small.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from aevo_jax.models.decoder import Decoder
from aevo_jax.sharding import context
from aevo_jax.training.tokens.token_stats import TokenStats, of_logits


def token_stats(
  model: Decoder,
  tokens_bt: Int[Array, 'batch time'],
  segment_ids_bt: Int[Array, 'batch time'],
  *,
  mask_bt: Shaped[Array, 'batch time'] | None = None,
  temperature: float = 1.0,
  chunk: int = 0,
) -> tuple[TokenStats, jax.Array | None]:
  """Computes the statistics of every token of packed rows.

  A segment's first token is predicted from the segment before; leave it out in `mask_bt`.

  Args:
    model: with its arrays.
    tokens_bt: packed rows.
    segment_ids_bt: of the packed sequences.
    mask_bt: where 0, the statistics are 0 and no gradient flows back, whatever the model computes
      there; None masks nothing.
    temperature: divides the logits.
    chunk: positions of every row at a time; 0 is all.

  Returns:
    The statistics [batch, time], and the experts' loads (`Decoder.with_loads`).
  """
  hidden, loads = model.hidden(tokens_bt, segment_ids_bt)
  return stats_of_hidden(model, hidden, tokens_bt, mask_bt, temperature, chunk), loads


def stats_of_hidden(
  model: Decoder,
  hidden: Float[Array, 'batch time width'],
  tokens_bt: Int[jax.Array | np.ndarray, 'batch time'],
  mask_bt: Shaped[Array, 'batch time'] | None,
  temperature: float,
  chunk: int,
) -> TokenStats:
  """Computes the statistics of tokens from the residual stream behind the last block.

  Args:
    model: whose head is applied.
    hidden: of packed rows.
    tokens_bt: packed rows.
    mask_bt: where 0, the statistics are 0; None masks nothing.
    temperature: divides the logits.
    chunk: positions of every row at a time; 0 is all.

  Returns:
    The statistics [batch, time].
  """
  head = model.head(hidden.dtype) if chunk else None

  def stats_of(hidden: jax.Array, tokens: jax.Array) -> TokenStats:
    return of_logits(model.logits(hidden, head), tokens, temperature)

  return per_token(stats_of, hidden, tokens_bt, mask_bt, chunk)


def per_token(
  function: Callable[..., Any],
  hidden: Any,
  tokens_bt: Int[jax.Array | np.ndarray, 'batch time'],
  mask_bt: Shaped[Array, 'batch time'] | None = None,
  chunk: int = 0,
) -> Any:
  """Applies a function of hidden states to every token that they predict.

  Args:
    function: maps hidden states [batch, c, ...] and tokens [batch, c] to arrays [batch, c].
    hidden: arrays [batch, time, ...], of which position t is what is known before token t + 1.
    tokens_bt: packed rows.
    mask_bt: where 0, the results are 0; None masks nothing. NaN counts as a weight, so that it is
      seen in the loss.
    chunk: c, positions of every row at a time; 0 is all.

  Returns:
    The function's arrays [batch, time], at the positions of the tokens.
  """
  targets = _shift(tokens_bt)
  mask = _shift(jnp.ones_like(tokens_bt) if mask_bt is None else mask_bt) != 0
  # Cleared before, not after: a gradient of 0 times a NaN would still be NaN.
  hidden = jax.tree.map(
    lambda x: jnp.where(mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), x, 0), hidden
  )
  if chunk and chunk < tokens_bt.shape[1]:
    results = _in_chunks(function, hidden, targets, chunk)
  else:
    results = function(hidden, targets)
  return jax.tree.map(lambda x: jnp.pad(jnp.where(mask, x, 0)[:, :-1], ((0, 0), (1, 0))), results)


def _shift(x_bt: jax.Array | np.ndarray) -> jax.Array:
  """Moves every row one position to the left, with a 0 at its end."""
  return jnp.concatenate([x_bt[:, 1:], jnp.zeros_like(x_bt[:, :1])], axis=1)


def _in_chunks(function: Callable[..., Any], hidden: Any, targets_bt: jax.Array, chunk: int) -> Any:
  """Applies the function to one chunk of positions after the other.

  Where a row lies in parts on several devices, a chunk has positions of every part, so that all of
  them work on it.
  """
  rows, length = targets_bt.shape
  layout = context.layout_in_use()
  parts = 1 if layout is None else layout.shards('length')
  of_part = max(1, chunk // parts)
  count = -(-length // (parts * of_part))
  padded = count * of_part

  def split(x: jax.Array) -> jax.Array:
    rest = x.shape[2:]
    by_part = x.reshape(rows, parts, length // parts, *rest)
    missing = padded - length // parts
    by_part = jnp.pad(by_part, ((0, 0), (0, 0), (0, missing), *[(0, 0)] * len(rest)))
    chunks = jnp.moveaxis(by_part.reshape(rows, parts, count, of_part, *rest), 2, 0)
    pieces = chunks.reshape(count, rows, parts * of_part, *rest)
    return context.constrain(pieces, None, 'batch', 'length', *[None] * len(rest))

  def apply(piece: tuple[Any, jax.Array]) -> Any:
    return function(*piece)

  def join(x: jax.Array) -> jax.Array:
    by_part = jnp.moveaxis(x.reshape(count, rows, parts, of_part), 0, 2)
    return by_part.reshape(rows, parts, padded)[..., : length // parts].reshape(rows, length)

  pieces = (jax.tree.map(split, hidden), split(targets_bt))
  return jax.tree.map(join, jax.lax.map(jax.checkpoint(apply), pieces))
