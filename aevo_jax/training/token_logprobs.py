"""Log-probabilities and entropies of tokens from what a decoder's blocks give, without the logits
of all tokens at once.

The output head is applied to `chunk` places of every row at a time, and again in the backward pass,
so that the float32 logits of one chunk are the largest array there is: rows * chunk * vocabulary in
place of rows * length * vocabulary. With chunk = 0 everything is one product, which is faster where
the vocabulary is small.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aevo_jax.models.decoder import Decoder


class TokenStats(NamedTuple):
  """[b, t] each, in nats, about token t given those before it; 0 for a row's first token.

  logprobs: of the token. entropy: of the distribution it comes from. mean_logprob: over the
  vocabulary, for label smoothing.
  """

  logprobs: jax.Array
  entropy: jax.Array
  mean_logprob: jax.Array


def of_logits(logits: jax.Array, tokens: jax.Array, temperature: float = 1.0) -> TokenStats:
  """logits [..., v] float32, tokens [...] of which each is asked for."""
  logits = logits / temperature
  log_z = jax.nn.logsumexp(logits, axis=-1)
  picked = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  expected = jnp.sum(jax.nn.softmax(logits) * logits, axis=-1)
  return TokenStats(picked - log_z, log_z - expected, jnp.mean(logits, axis=-1) - log_z)


def token_stats(
  model: Decoder,
  tokens_bt: jax.Array,
  segment_ids_bt: jax.Array,
  *,
  wanted_bt: jax.Array | None = None,
  temperature: float = 1.0,
  chunk: int = 0,
) -> tuple[TokenStats, jax.Array | None]:
  """Statistics of every token of packed rows, and the experts' loads (`Decoder.with_loads`).

  Args:
    wanted_bt: where 0, nothing is asked, the statistics are 0 and no gradient flows back, whatever
      the model says there; None asks everywhere.
    temperature: divides the logits. chunk: places of every row at a time; 0 is all.

  A segment's first token is asked for from the segment before; leave it out in `wanted_bt`.
  """
  hidden, loads = model.hidden(tokens_bt, segment_ids_bt)
  stats = per_token(
    lambda x, tokens: of_logits(model.logits(x), tokens, temperature),
    hidden,
    tokens_bt,
    wanted_bt,
    chunk,
  )
  return stats, loads


def per_token(
  function: Callable[..., Any],
  hidden: Any,
  tokens_bt: jax.Array,
  wanted_bt: jax.Array | None = None,
  chunk: int = 0,
) -> Any:
  """function(hidden [b, c, ...], tokens [b, c]) -> arrays [b, c], for c = `chunk` places of every
  row at a time, or all; the results' places are those of the tokens.

  hidden: arrays [b, t, ...]; hidden[:, t] is what is known before tokens[:, t + 1].
  """
  shift = lambda x: jnp.concatenate([x[:, 1:], jnp.zeros_like(x[:, :1])], axis=1)
  asked = shift(tokens_bt)
  wanted = (
    shift(jnp.ones_like(tokens_bt) if wanted_bt is None else wanted_bt) != 0
  )  # a weight that is NaN is to be seen
  # Cleared before, not after: a gradient of 0 times a NaN would still be NaN.
  hidden = jax.tree.map(
    lambda x: jnp.where(wanted.reshape(*wanted.shape, *[1] * (x.ndim - 2)), x, 0), hidden
  )
  b, t = tokens_bt.shape
  if chunk and chunk < t:
    pieces = -(-t // chunk)
    cut = lambda x: jnp.moveaxis(
      jnp.pad(x, ((0, 0), (0, pieces * chunk - t), *[(0, 0)] * (x.ndim - 2))).reshape(
        b, pieces, chunk, *x.shape[2:]
      ),
      1,
      0,
    )
    out = jax.lax.map(
      jax.checkpoint(lambda piece: function(*piece)), (jax.tree.map(cut, hidden), cut(asked))
    )
    out = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(b, -1)[:, :t], out)
  else:
    out = function(hidden, asked)
  return jax.tree.map(lambda x: jnp.pad(jnp.where(wanted, x, 0)[:, :-1], ((0, 0), (1, 0))), out)
