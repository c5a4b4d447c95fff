"""Tables of candidates: time that grows as their rows do, and effects in their own points."""

import time

import numpy as np
import pytest

from aevo_jax.config.sections import Reversal
from aevo_jax.meta_agent.drift.tables import score_table, table_closing, table_verdicts


def table(tmp_path, rows, *, unit=1.0, seed=0):
  rng = np.random.default_rng(seed)
  lines = ['a,b,lb']
  for _ in range(rows):
    a, b, noise = rng.normal(size=3)
    scores = (50 + 5 * a, 50 + 5 * b, 50 + 2 * (a + b) + noise)
    lines.append(','.join(f'{unit * score:.4f}' for score in scores))
  (tmp_path / 'table.csv').write_text('\n'.join(lines) + '\n')
  return score_table.read(tmp_path / 'table.csv', score_table.Columns('lb'), 8)


def test_time_grows_as_the_rows_do(tmp_path):
  """Sixteen times the rows may take thirty times as long; squared, they would take 256 times."""
  seconds = {}
  list(table_verdicts.judged(table(tmp_path, 24), Reversal(), None))  # imports, and tables of sizes
  for rows in (240, 3840):
    replayed = table(tmp_path, rows)
    start = time.process_time()
    list(table_verdicts.judged(replayed, Reversal(), None))
    seconds[rows] = time.process_time() - start
  assert seconds[3840] < 48 * seconds[240], seconds


@pytest.mark.parametrize('unit', [1.0, 0.01, 40.0])
def test_what_could_be_seen_is_in_points_of_the_table(tmp_path, unit):
  """Percentages, shares and any other scale."""
  replayed = table(tmp_path, 64, unit=unit)
  course = table_closing.courses(replayed, Reversal(), None)
  lines = table_closing.sentences(replayed, course, {}, 0.8)
  words = lines[0].split(' less on lb')[0].split('a point gained on dev gains ')[1]
  assert 0.2 < float(words) < 2
  spread = float(lines[0].split('for the ')[1].split()[0])
  assert spread == pytest.approx(5 * unit, rel=0.2)


def test_a_short_table_says_that_nothing_could_be_seen(tmp_path):
  replayed = table(tmp_path, 3)
  course = table_closing.courses(replayed, Reversal(), None)
  assert {table_closing.outcome(each) for each in course.values()} == {'undetermined'}
  lines = table_closing.sentences(replayed, course, {}, 0.8)
  assert len(lines) == 3
  for line in lines:
    assert line.endswith('nothing could have been seen with so few candidates: add rounds or rows.')
