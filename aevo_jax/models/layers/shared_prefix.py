"""Rows that begin alike: a prompt and several continuations of it.

A row is [prompt | continuation 0 | continuation 1 | ...], prompts padded on the left and
continuations on the right, so that the prompt goes through the blocks once. Blocks that look at one
token at a time see one long row; attention and scan let each continuation see the prompt and itself
(`split`, `join`).
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped


@dataclasses.dataclass(frozen=True)
class SharedPrefix:
  """The layout of such rows.

  Attributes:
    segment_ids: [prompts, t], 1 at tokens and 0 at padding; t = prompt + members * continuation.
    prompt: length of the prompts.
    members: continuations of each prompt.
  """

  segment_ids: Int[Array, 'prompts time']
  prompt: int
  members: int

  @property
  def prompt_ids(self) -> Int[Array, 'prompts prompt']:
    """The segment ids of the prompts."""
    return self.segment_ids[:, : self.prompt]

  @property
  def continuation_ids(self) -> Int[Array, 'rows continuation']:
    """The segment ids of the continuations, one row each."""
    return self.split(self.segment_ids)[1]

  def split(
    self, x: Shaped[Array, 'prompts time *rest']
  ) -> tuple[Shaped[Array, 'prompts prompt *rest'], Shaped[Array, 'rows continuation *rest']]:
    """Cuts rows into prompts and continuations.

    Args:
      x: values of each token.

    Returns:
      The values of the prompts, and of the continuations with a row for each; rows = prompts *
      members.
    """
    continuations = x[:, self.prompt :].reshape(x.shape[0] * self.members, -1, *x.shape[2:])
    return x[:, : self.prompt], continuations

  def join(
    self,
    prompts: Shaped[Array, 'prompts prompt *rest'],
    continuations: Shaped[Array, 'rows continuation *rest'],
  ) -> Shaped[Array, 'prompts time *rest']:
    """Inverts `split`.

    Args:
      prompts: values of the prompts' tokens.
      continuations: values of the continuations' tokens.

    Returns:
      The values of whole rows.
    """
    behind = continuations.reshape(prompts.shape[0], -1, *continuations.shape[2:])
    return jnp.concatenate([prompts, behind], axis=1)

  def each(self, x: Shaped[Array, ' prompts *rest']) -> Shaped[Array, ' rows *rest']:
    """Repeats a prompt's values for each of its continuations.

    Args:
      x: one entry for each prompt.

    Returns:
      One entry for each continuation.
    """
    return jnp.repeat(x, self.members, axis=0)

  def rows(
    self, x: Shaped[Array, 'prompts time *rest']
  ) -> Shaped[Array, 'rows continuation_and_1 *rest']:
    """Cuts rows into what predicts the continuations' tokens.

    Args:
      x: values of each token.

    Returns:
      For each continuation the values of the prompt's last token, and of its tokens.
    """
    prompts, continuations = self.split(x)
    return jnp.concatenate([self.each(prompts[:, -1:]), continuations], axis=1)


def lay_out(
  prompts: Int[Array, 'prompts prompt'],
  prompt_ids: Int[Array, 'prompts prompt'],
  continuations: Int[Array, 'rows continuation'],
  continuation_ids: Int[Array, 'rows continuation'],
) -> tuple[Int[Array, 'prompts time'], SharedPrefix]:
  """Lays prompts and their continuations out as rows.

  Args:
    prompts: tokens, padded on the left.
    prompt_ids: 1 at tokens and 0 at padding.
    continuations: tokens, padded on the right; rows of one prompt are neighbours.
    continuation_ids: 1 at tokens and 0 at padding.

  Returns:
    The rows' tokens, and where in them is what.
  """
  members = continuations.shape[0] // prompts.shape[0]
  tokens = _behind(prompts, continuations)
  segment_ids = _behind(prompt_ids, continuation_ids)
  return tokens, SharedPrefix(segment_ids, prompts.shape[1], members)


def _behind(
  prompts: Int[Array, 'prompts prompt'], continuations: Int[Array, 'rows continuation']
) -> Int[Array, 'prompts time']:
  """Puts the continuations of a prompt behind it."""
  return jnp.concatenate([prompts, continuations.reshape(prompts.shape[0], -1)], axis=1)
