"""First-fit-decreasing packing as a Grain stage: the sequences of a window, longest first, each
into the first row that has room for it (11/9 of the fewest rows at most; Johnson, 1973).

Rows of a window leave in random order, since those that were filled first hold the longest
sequences.
"""

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

Row = dict[str, np.ndarray]


def rows_of(lengths: Sequence[int], row_length: int) -> list[list[int]]:
  """Indices of the sequences in each row.

  Raises:
    ValueError: a sequence is longer than a row.
  """
  if max(lengths, default=0) > row_length:
    raise ValueError(f'a sequence of {max(lengths)} tokens does not fit rows of {row_length}')
  rows, room = [], np.zeros(0, int)
  for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
    fits = np.flatnonzero(room >= lengths[i])
    if not len(fits):
      rows.append([])
      room = np.append(room, row_length)
      fits = [len(rows) - 1]
    rows[fits[0]].append(i)
    room[fits[0]] -= lengths[i]
  return rows


class FirstFitDecreasing(grain.IterDataset):
  """Packs a dataset of {'tokens', 'weights'} into rows with 'segment_ids', which count from 1; 0 is
  padding. seed: of the order of rows within a window.
  """

  def __init__(self, parent: grain.IterDataset, *, row_length: int, window: int, seed: int = 0):
    super().__init__(parent)
    self._settings = row_length, window, seed

  def __iter__(self) -> '_Rows':
    return _Rows(iter(self._parent), *self._settings)


class _Rows(grain.DatasetIterator):
  def __init__(self, parent: grain.DatasetIterator, row_length: int, window: int, seed: int):
    super().__init__(parent)
    self._row_length, self._window, self._seed = row_length, window, seed
    self._number, self._emitted, self._rows = 0, 0, []
    self._began = parent.get_state()  # where the window's sequences begin

  def __next__(self) -> Row:
    if self._emitted == len(self._rows):
      if self._rows:
        self._number, self._emitted, self._began = self._number + 1, 0, self._parent.get_state()
      self._fill()
    self._emitted += 1
    return self._rows[self._emitted - 1]

  def _fill(self) -> None:
    sequences = []
    for _ in range(self._window):
      try:
        sequences.append(next(self._parent))
      except StopIteration:
        break
    if not sequences:
      self._rows = []
      raise StopIteration
    packed = [
      self._row([sequences[i] for i in row])
      for row in rows_of([len(s['tokens']) for s in sequences], self._row_length)
    ]
    self._rows = [
      packed[i] for i in np.random.default_rng([self._seed, self._number]).permutation(len(packed))
    ]

  def _row(self, sequences: Sequence[Row]) -> Row:
    row = {
      'tokens': np.zeros(self._row_length, np.int32),
      'weights': np.zeros(self._row_length, np.float32),
      'segment_ids': np.zeros(self._row_length, np.int32),
    }
    start = 0
    for number, sequence in enumerate(sequences, start=1):
      end = start + len(sequence['tokens'])
      row['tokens'][start:end], row['weights'][start:end], row['segment_ids'][start:end] = (
        sequence['tokens'],
        sequence['weights'],
        number,
      )
      start = end
    return row

  def get_state(self) -> dict[str, Any]:
    return {'parent': self._began, 'window': self._number, 'emitted': self._emitted}

  def set_state(self, state: dict[str, Any]) -> None:
    self._parent.set_state(state['parent'])
    self._began, self._number, self._emitted, self._rows = state['parent'], state['window'], 0, []
    if state['emitted']:
      self._fill()
      self._emitted = state['emitted']
