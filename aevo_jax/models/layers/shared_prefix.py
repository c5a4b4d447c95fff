"""Rows that begin alike: a prompt, and several continuations of it, whose prompt goes through the
blocks once.

A row is [prompt | continuation 0 | continuation 1 | ...], prompts padded on the left and
continuations on the right. Blocks that look at one token at a time see one long row; attention and
scan let each continuation see the prompt and itself (`split`, `join`).
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class SharedPrefix:
  """segment_ids [p, t]: 1 at tokens, 0 at padding; t = prompt + members * own. prompt: places of
  the prompt. members: continuations of it.
  """

  segment_ids: jax.Array
  prompt: int
  members: int

  @property
  def prompt_ids(self) -> jax.Array:
    return self.segment_ids[:, : self.prompt]

  @property
  def own_ids(self) -> jax.Array:
    """[p * members, own]."""
    return self.split(self.segment_ids)[1]

  def split(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[p, t, ...] -> prompts [p, prompt, ...], continuations [p * members, own, ...]."""
    return x[:, : self.prompt], x[:, self.prompt :].reshape(
      x.shape[0] * self.members, -1, *x.shape[2:]
    )

  def join(self, prompts: jax.Array, own: jax.Array) -> jax.Array:
    """The inverse of `split`."""
    return jnp.concatenate([prompts, own.reshape(prompts.shape[0], -1, *own.shape[2:])], axis=1)

  def each(self, x: jax.Array) -> jax.Array:
    """[p, ...] -> [p * members, ...], the prompt's for each of its continuations."""
    return jnp.repeat(x, self.members, axis=0)

  def rows(self, x: jax.Array) -> jax.Array:
    """[p, t, ...] -> [p * members, 1 + own, ...]: the prompt's last place, and the continuation's."""
    prompts, own = self.split(x)
    return jnp.concatenate([self.each(prompts[:, -1:]), own], axis=1)


def lay_out(
  prompts: jax.Array, prompt_ids: jax.Array, own: jax.Array, own_ids: jax.Array
) -> tuple[jax.Array, SharedPrefix]:
  """Tokens [p, t] and their places, of prompts [p, prompt] padded on the left and continuations [p
  * members, own] padded on the right; ids are 1 at tokens and 0 at padding.
  """
  members = own.shape[0] // prompts.shape[0]
  flat = lambda x, y: jnp.concatenate([x, y.reshape(x.shape[0], -1)], axis=1)
  return flat(prompts, own), SharedPrefix(flat(prompt_ids, own_ids), prompts.shape[1], members)
