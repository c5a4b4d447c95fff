"""First-fit-decreasing packing as a Grain stage.

The sequences of a window are taken longest first, and each goes into the first row that has room
for it. That takes at most 11/9 of the fewest rows and 6/9 of a row more (Johnson 1973 for the
factor, Dósa 2007 for the constant). Rows of a window leave in random order, since those that were
filled first hold the longest sequences.
"""

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

Row = dict[str, np.ndarray]


def rows_of(lengths: Sequence[int], row_length: int) -> list[list[int]]:
  """Assigns sequences to rows.

  Args:
    lengths: tokens of each sequence.
    row_length: tokens that a row holds.

  Returns:
    Indices of the sequences in each row.

  Raises:
    ValueError: a sequence is longer than a row.
  """
  if max(lengths, default=0) > row_length:
    raise ValueError(f'a sequence of {max(lengths)} tokens does not fit rows of {row_length}')
  rows = []
  room = np.zeros(0, int)
  for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
    fitting = np.flatnonzero(room >= lengths[i])
    if len(fitting):
      row = fitting[0]
    else:
      row = len(rows)
      rows.append([])
      room = np.append(room, row_length)
    rows[row].append(i)
    room[row] -= lengths[i]
  return rows


class FirstFitDecreasing(grain.IterDataset):
  """Packs a dataset of {'tokens', 'weights'} into rows with 'segment_ids'.

  Segments count from 1; 0 is padding.
  """

  def __init__(self, parent: grain.IterDataset, *, row_length: int, window: int, seed: int = 0):
    """Makes the stage.

    Args:
      parent: sequences.
      row_length: tokens of a row.
      window: sequences that are packed together.
      seed: of the order of rows within a window.
    """
    super().__init__(parent)
    self._row_length = row_length
    self._window = window
    self._seed = seed

  def __iter__(self) -> '_Rows':
    return _Rows(iter(self._parent), self._row_length, self._window, self._seed)


class _Rows(grain.DatasetIterator):
  """Iterates over rows; its state is where the window began, and how many rows have left."""

  def __init__(self, parent: grain.DatasetIterator, row_length: int, window: int, seed: int):
    super().__init__(parent)
    self._row_length = row_length
    self._window = window
    self._seed = seed
    self._number = 0  # of the window
    self._emitted = 0
    self._rows: list[Row] = []
    self._window_state = parent.get_state()  # where the window's sequences begin

  def __next__(self) -> Row:
    if self._emitted == len(self._rows):
      if self._rows:
        self._number += 1
        self._emitted = 0
        self._window_state = self._parent.get_state()
      self._fill()
    self._emitted += 1
    return self._rows[self._emitted - 1]

  def _fill(self) -> None:
    """Packs the next window."""
    sequences = []
    for _ in range(self._window):
      try:
        sequences.append(next(self._parent))
      except StopIteration:
        break
    if not sequences:
      self._rows = []
      raise StopIteration
    lengths = [len(sequence['tokens']) for sequence in sequences]
    packed = []
    for indices in rows_of(lengths, self._row_length):
      packed.append(self._row([sequences[i] for i in indices]))
    order = np.random.default_rng([self._seed, self._number]).permutation(len(packed))
    self._rows = [packed[i] for i in order]

  def _row(self, sequences: Sequence[Row]) -> Row:
    row = {
      'tokens': np.zeros(self._row_length, np.int32),
      'weights': np.zeros(self._row_length, np.float32),
      'segment_ids': np.zeros(self._row_length, np.int32),
    }
    start = 0
    for number, sequence in enumerate(sequences, start=1):
      end = start + len(sequence['tokens'])
      row['tokens'][start:end] = sequence['tokens']
      row['weights'][start:end] = sequence['weights']
      row['segment_ids'][start:end] = number
      start = end
    return row

  def get_state(self) -> dict[str, Any]:
    return {'parent': self._window_state, 'window': self._number, 'emitted': self._emitted}

  def set_state(self, state: dict[str, Any]) -> None:
    self._parent.set_state(state['parent'])
    self._window_state = state['parent']
    self._number = state['window']
    self._emitted = 0
    self._rows = []
    if state['emitted']:
      self._fill()
      self._emitted = state['emitted']
