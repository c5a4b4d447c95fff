"""What the arbiter tells of a round: the rows of the tests, and how little of a score follows."""

import numpy as np
import pytest

from aevo_jax.evaluation.scoring import ItemResult
from aevo_jax.evaluation.servers import told
from aevo_jax.stats import coarse

FAMILIES = [f'f{k}' for k in range(6)]
ITEMS = 500  # of a family of the external set
RELEASED = ('r3w0', 'r3w1', 'r3w2', 'r3w3')


def campaign(seed):
  """(dev, external, question) of three judged rounds of eight and three starting trials."""
  rng = np.random.default_rng(seed)
  names = [f'r{r}w{w}' for r in (1, 2, 3) for w in range(8)]
  start = ['r0w0', 'r0w1', 'r0w2']
  dev = {}
  external = {}
  for name in (*start, *names):
    recipe = 0.5 * rng.normal(size=6) * (name not in start)
    chances = 1 / (1 + np.exp(-(recipe + 0.085 * rng.normal(size=6))))
    for side, items in ((dev, 200), (external, ITEMS)):
      side[name] = {}
      for family, chance in zip(FAMILIES, chances, strict=True):
        side[name][family] = ''.join(np.where(rng.random(items) < chance, '1', '0'))
  question = {
    'rounds': [names[:8], names[8:16], names[16:]],
    'start': start,
    'transfer': 0.5,
    'calibration_rounds': 2,
    'seed': seed,
    'gain_p': 0.001,
    'slope_p': 0.001,
  }
  return dev, external, question


def flipped(external, trial, rng, items, to):
  """The answers with some of a trial's items of one family answered rightly ('1') or not ('0')."""
  family = FAMILIES[rng.integers(len(FAMILIES))]
  marks = list(external[trial][family])
  places = [i for i, mark in enumerate(marks) if mark != to]
  for i in rng.choice(places, min(items, len(places)), replace=False):
    marks[i] = to
  return external | {trial: external[trial] | {family: ''.join(marks)}}


def right(external, trial):
  return sum(text.count('1') for text in external[trial].values())


def reach(seed, trial, to, steps):
  """How far a trial's score can move while everything that is told stays the same."""
  rng = np.random.default_rng([seed, int(to)])
  dev, external, question = campaign(seed)
  before = told.told(dev, external, question, decimals=2)
  free = [name for name in question['rounds'][-1] if name not in (trial, *RELEASED)]
  score = right(external, trial)
  for _ in range(steps):
    moved = flipped(external, trial, rng, int(rng.integers(1, 6)), to)
    # The scores of other unreleased trials are as little known, and may move to either side.
    other = free[rng.integers(len(free))]
    moved = flipped(moved, other, rng, int(rng.integers(0, 6)), str(rng.integers(0, 2)))
    if told.told(dev, moved, question, decimals=2) == before:
      external = moved
  return abs(right(external, trial) - score)


def widths(seeds, trials, steps):
  """Items between the highest and the lowest such score that a search finds, for each trial."""
  return [reach(s, t, '1', steps) + reach(s, t, '0', steps) for s in seeds for t in trials]


def test_no_unreleased_score_follows_more_closely_than_a_release_would_tell_it():
  """A release is rounded to .01: it leaves 30 of 3,000 items. Other scores that far apart, up and
  down together, tell exactly the same rows."""
  found = widths((0, 1), ('r3w4', 'r3w7'), steps=200)
  assert np.median(found) >= 30, found


def test_rows_are_coarse():
  dev, external, question = campaign(3)
  rows = told.told(dev, external, question, decimals=2)
  assert set(rows) == {*FAMILIES, 'overall'}
  for row in rows.values():
    gain = row['gain']
    if 'p' in gain:
      assert gain['external'] == round(gain['external'], 2)
      assert f'{gain["p"]:.0e}'[0] in '125'
    if 'p' in row['slope']:
      assert row['slope']['slope'] == round(row['slope']['slope'], 1)


@pytest.mark.parametrize(('level', 'p', 'expected'), [(0.0009, 0.0008, 0.0009), (1e-4, 3e-4, 5e-4)])
def test_rounding_moves_no_p_value_across_its_level(level, p, expected):
  assert coarse.upwards(p, level) == expected
  assert (p <= level) == (coarse.upwards(p, level) <= level)


def test_bits_are_the_results_by_family_in_order():
  results = [
    ItemResult('b', 'k', 'x', True, False),
    ItemResult('a', 'k', 'x', False, True),
    ItemResult('b', 'k', 'x', False, True),
  ]
  assert told.bits(results, 'strict') == {'a': '0', 'b': '10'}
  assert told.bits(results, 'challenge') == {'a': '1', 'b': '01'}


if __name__ == '__main__':  # the figures of docs/verdicts.md; five minutes
  print(sorted(widths(range(4), [f'r3w{k}' for k in range(4, 8)], steps=600)))
