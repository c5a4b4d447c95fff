"""Batches whose groups go through the model with their prompt once (`models.layers.shared_prefix`): from
rows of whole sequences, as they are logged, and back.
"""

from collections.abc import Mapping

import jax
import numpy as np

from aevo_jax.models.decoder import Decoder
from aevo_jax.models.layers.shared_prefix import lay_out

PROMPTS = ('prompt_tokens', 'prompt_ids')
PROMPT, OWN = 32, 16  # prompts and continuations are as long as a multiple of it


def fold(arrays: Mapping[str, np.ndarray], members: int) -> dict[str, np.ndarray]:
  """Rows without their prompts.

  Args:
    arrays: tokens, segment_ids and mask [rows, t], and others that are 0 on prompts, [rows, t] or
      [rows]; `members` neighbouring rows have one prompt, which ends where the mask begins.

  Returns:
    The same, [rows, 1 + own], in which the first place stands for the prompt's last; and
    prompt_tokens, prompt_ids [rows / members, prompt], padded on the left.
  """
  starts, lengths = _starts(arrays), (arrays['segment_ids'] > 0).sum(axis=1)
  rows = len(starts)
  own = _up((lengths - starts).max(initial=1), OWN)
  take = np.minimum(starts[:, None] - 1 + np.arange(1 + own), arrays['mask'].shape[1] - 1)
  inside = (starts[:, None] - 1 + np.arange(1 + own)) < lengths[:, None]
  out = {
    name: np.where(inside, x[np.arange(rows)[:, None], take], 0).astype(x.dtype)
    if x.ndim == 2
    else x
    for name, x in arrays.items()
  }
  first = starts[::members]
  prompt = _up(first.max(initial=1), PROMPT)
  tokens, ids = np.zeros((2, rows // members, prompt), np.int32)
  for group, n in enumerate(first):
    if lengths[group * members]:
      tokens[group, prompt - n :], ids[group, prompt - n :] = (
        arrays['tokens'][group * members, :n],
        1,
      )
  return out | {'prompt_tokens': tokens, 'prompt_ids': ids}


def unfold(values: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
  """What belongs to places of folded rows, [rows, 1 + own], at the places [rows, t] that they come
  from; 0 on prompts.
  """
  out = np.zeros(arrays['mask'].shape, values.dtype)
  for row, (start, length) in enumerate(
    zip(_starts(arrays), (arrays['segment_ids'] > 0).sum(axis=1))
  ):
    out[row, start:length] = values[row, 1 : 1 + length - start] if length else 0
  return out


def hidden(model: Decoder, batch: Mapping[str, jax.Array]) -> jax.Array:
  """`Decoder.hidden` of a folded batch's rows, [rows, 1 + own, d]."""
  tokens, places = lay_out(
    *(batch[name] for name in PROMPTS), batch['tokens'][:, 1:], batch['segment_ids'][:, 1:]
  )
  return places.rows(model.hidden(tokens, places)[0])


def _starts(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
  """[rows] places of each row's prompt; all of a row that the policy added nothing to, and 1 of an
  empty one.
  """
  mask = arrays['mask'] > 0
  return np.maximum(
    np.where(mask.any(axis=1), mask.argmax(axis=1), (arrays['segment_ids'] > 0).sum(axis=1)), 1
  )


def _up(n: int, multiple: int) -> int:
  return -(-int(n) // multiple) * multiple
