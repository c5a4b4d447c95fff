"""Batches whose groups go through the model with their prompt once.

`models.layers.shared_prefix` is the layout. Rows of whole sequences, as they are logged, are folded
into it and unfolded again.
"""

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from aevo_jax.models.decoder import Decoder
from aevo_jax.models.layers.shared_prefix import lay_out

# Prompts and continuations are as long as a multiple of it.
PROMPT_MULTIPLE = 32
CONTINUATION_MULTIPLE = 16


def fold(arrays: Mapping[str, np.ndarray], members: int) -> dict[str, np.ndarray]:
  """Takes the prompts out of rows.

  Args:
    arrays: tokens, segment_ids and mask [rows, time], and others that are 0 on prompts, [rows,
      time] or [rows]. A prompt ends where the mask begins.
    members: so many neighbouring rows have one prompt.

  Returns:
    The same arrays, [rows, 1 + continuation], in which the first position stands for the prompt's
    last. Also prompt_tokens and prompt_ids [rows / members, prompt], padded on the left.
  """
  starts = _starts(arrays)
  lengths = _lengths(arrays)
  width = 1 + _round_up((lengths - starts).max(initial=1), CONTINUATION_MULTIPLE)
  positions = starts[:, None] - 1 + np.arange(width)
  inside = positions < lengths[:, None]
  positions = np.minimum(positions, arrays['mask'].shape[1] - 1)
  row_numbers = np.arange(len(starts))[:, None]
  folded = {}
  for name, values in arrays.items():
    if values.ndim == 2:
      values = np.where(inside, values[row_numbers, positions], 0).astype(values.dtype)
    folded[name] = values
  prompt_lengths = starts[::members]
  width = _round_up(prompt_lengths.max(initial=1), PROMPT_MULTIPLE)
  prompt_tokens = np.zeros((len(prompt_lengths), width), np.int32)
  prompt_ids = np.zeros((len(prompt_lengths), width), np.int32)
  for group, length in enumerate(prompt_lengths):
    first_row = group * members
    if lengths[first_row]:
      prompt_tokens[group, width - length :] = arrays['tokens'][first_row, :length]
      prompt_ids[group, width - length :] = 1
  return folded | {'prompt_tokens': prompt_tokens, 'prompt_ids': prompt_ids}


def unfold(
  values: Shaped[np.ndarray, 'rows folded'], arrays: Mapping[str, np.ndarray]
) -> Shaped[np.ndarray, 'rows time']:
  """Puts values of folded rows back where they come from.

  Args:
    values: at the positions that `fold` makes.
    arrays: as they were before `fold`.

  Returns:
    The values at the positions of `arrays`, 0 on prompts.
  """
  unfolded = np.zeros(arrays['mask'].shape, values.dtype)
  for row, (start, length) in enumerate(zip(_starts(arrays), _lengths(arrays), strict=True)):
    if length:
      unfolded[row, start:length] = values[row, 1 : 1 + length - start]
  return unfolded


def hidden(model: Decoder, batch: Mapping[str, jax.Array]) -> Float[Array, 'rows folded width']:
  """Computes the hidden states of a folded batch, as `Decoder.hidden` does.

  Args:
    model: with its arrays.
    batch: as `fold` makes it.

  Returns:
    What is known before the next token, of every position of the folded rows.
  """
  tokens, layout = lay_out(
    batch['prompt_tokens'],
    batch['prompt_ids'],
    batch['tokens'][:, 1:],
    batch['segment_ids'][:, 1:],
  )
  return layout.rows(model.hidden(tokens, layout)[0])


def _lengths(arrays: Mapping[str, np.ndarray]) -> Int[np.ndarray, ' rows']:
  return (arrays['segment_ids'] > 0).sum(axis=1)


def _starts(arrays: Mapping[str, np.ndarray]) -> Int[np.ndarray, ' rows']:
  """Returns how long each row's prompt is.

  That is all of a row to which the policy added nothing, and 1 of an empty row.
  """
  mask = arrays['mask'] > 0
  first_chosen = np.where(mask.any(axis=1), mask.argmax(axis=1), _lengths(arrays))
  return np.maximum(first_chosen, 1)


def _round_up(number: int | np.integer, multiple: int) -> int:
  return -(-int(number) // multiple) * multiple
