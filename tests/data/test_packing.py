"""First-fit-decreasing: nothing lost, nothing split, few rows, and a position to go on from."""

import grain
import numpy as np
import pytest

from aevo_jax.data import pipeline, tokenizer
from aevo_jax.data.packing import FirstFitDecreasing, rows_of
from aevo_jax.tasks.mixture import Mixture

LENGTH = 20


def sequences(count, seed=0):
  rng = np.random.default_rng(seed)
  return [
    {'tokens': np.full(n, i + 1, np.int32), 'weights': np.full(n, 0.5, np.float32)}
    for i, n in enumerate(rng.integers(1, LENGTH + 1, count))
  ]


def packed(items, window):
  return FirstFitDecreasing(
    grain.MapDataset.source(items).to_iter_dataset(), row_length=LENGTH, window=window
  )


def test_rows_by_hand():
  assert rows_of([3, 7, 2, 5, 4, 1], 8) == [[1, 5], [3, 0], [4, 2]]
  with pytest.raises(ValueError, match='9 tokens does not fit rows of 8'):
    rows_of([3, 9], 8)


@pytest.mark.parametrize('window', [1, 7, 100])
def test_every_sequence_is_whole_in_one_row(window):
  items = sequences(50)
  found = {}
  for row in packed(items, window):
    assert (
      (row['tokens'] > 0).tolist()
      == (row['segment_ids'] > 0).tolist()
      == (row['weights'] > 0).tolist()
    )
    for segment in range(1, row['segment_ids'].max() + 1):
      (tokens,) = {tuple(row['tokens'][row['segment_ids'] == segment])}
      assert len(set(tokens)) == 1 and tokens[0] not in found
      found[tokens[0]] = len(tokens)
  assert found == {i + 1: len(s['tokens']) for i, s in enumerate(items)}


def test_few_rows_are_needed():
  """Never more than 11/9 of what the tokens need, and one; and fewer than Grain's first-fit of the
  same stream wants.
  """
  for seed in range(5):
    items = sequences(300, seed)
    rows, fewest = len(list(packed(items, 300))), sum(len(s['tokens']) for s in items) / LENGTH
    first_fit = grain.experimental.FirstFitPackIterDataset(
      grain.MapDataset.source(items).to_iter_dataset(),
      length_struct={'tokens': LENGTH, 'weights': LENGTH},
      num_packing_bins=pipeline.PACKING_BINS,
      shuffle_bins=False,
    )
    assert rows <= fewest * 11 / 9 + 1 and rows < len(list(first_fit))


@pytest.mark.parametrize('at', [0, 1, 3, 8, 17])
def test_it_goes_on_where_it_was(at):
  whole = [row['tokens'].tolist() for row in packed(sequences(60), 10)]
  first = iter(packed(sequences(60), 10))
  for _ in range(at):
    next(first)
  resumed = iter(packed(sequences(60), 10))
  resumed.set_state(first.get_state())
  assert [row['tokens'].tolist() for row in resumed] == whole[at:]


def test_batches_of_the_puzzles_are_fuller_and_resume():
  source = pipeline.SftSource(0, Mixture('micro'), tokenizer.build())

  def filled(**how):
    batches = pipeline.batches(source, rows=8, row_length=128, **how)
    return np.mean([(next(batches)['segment_ids'] > 0).mean() for _ in range(12)])

  assert filled(packing='first_fit_decreasing', window=256) > filled() + 0.01
  batches = pipeline.batches(
    source, rows=8, row_length=128, packing='first_fit_decreasing', window=32
  )
  for _ in range(5):
    next(batches)
  state, expected = batches.get_state(), next(batches)
  again = pipeline.batches(
    source, rows=8, row_length=128, packing='first_fit_decreasing', window=32
  )
  again.set_state(state)
  assert all(np.array_equal(value, expected[name]) for name, value in next(again).items())
