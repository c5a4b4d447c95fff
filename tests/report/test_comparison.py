"""`aevo compare` on written runs with known numbers: what differs, paired and unpaired differences,
and what is not compared.
"""

import json
import shutil

import numpy as np
import pytest
from aevo_command import aevo

from aevo_jax.ledger.records import LedgerError
from aevo_jax.report import comparison
from aevo_jax.report.run_view import NoRunError
from aevo_jax.stats.intervals import unpaired_bootstrap

BETTER = {'base': 0.1, 'starting0': 0.5, 'starting1': 0.5, 'promoted0': 0.8, 'promoted1': 0.8}


def test_two_runs_on_the_same_final_set_are_compared_item_by_item(make_run):
  a, b = make_run('a'), make_run('b', accuracy=BETTER, pause=100.0)
  found = comparison.compare(a, b)
  # 80 items of four kinds; promoted recipes have .7 and .8 of them, and the two seeds of each are
  # alike.
  assert (
    found['paired']
    and found['difference']['value'] == pytest.approx(0.1)
    and found['difference']['verdict'] == 'gain'
  )
  assert [s['accuracy'] for s in found['scores']['promoted']] == pytest.approx(
    [0.7, 0.8]
  ) and found['finished'] == [True, True]
  assert found['differs'] == {} and found['costs'][0]['tokens'] == found['costs'][1]['tokens'] > 0
  assert found['costs'][0]['wall seconds'] == pytest.approx(
    found['costs'][1]['wall seconds'], abs=2.0
  )  # a pause is nobody's time
  assert [row['dev'] for row in found['rounds'][0]] == pytest.approx([0.525, 0.5, 0.65])
  assert (
    found['rounds'][0][1]['promoted'] == ['optimizer.learning_rate = 0.004']
    and 'gained +0.100' in found['rounds'][0][1]['reasons'][0]
  )
  said = comparison.text(found)
  assert (
    'promoted, B minus A: +0.100' in said
    and 'B is better (the same final items, paired)' in said
    and 'nothing: the same campaign twice' in said
  )
  back = comparison.compare(b, a)
  assert (
    back['difference']['value'] == pytest.approx(-0.1) and back['difference']['verdict'] == 'loss'
  )


def test_other_items_are_not_paired_and_it_says_so(make_run):
  a, b = make_run('a'), make_run('b', items=160)
  found = comparison.compare(a, b)
  assert (
    not found['paired']
    and found['difference']['low'] < 0 < found['difference']['high']
    and found['difference']['verdict'] == 'noise'
  )
  assert found['differs']['constitution final_set.items'] == ['80', '160']
  assert 'different final sets' in comparison.text(found)
  assert found['difference']['value'] == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize('until', ['round 0', 'round 1', 'final scored'])
def test_an_unfinished_run_is_shown_as_far_as_it_has_come(make_run, until):
  found = comparison.compare(make_run('a'), make_run('b', until=until))
  assert (
    found['difference'] is None
    and 'b has not come to its end' in found['why_not']
    and found['finished'] == [True, False]
  )
  assert (found['scores']['promoted'][1] is None) == (until != 'final scored')
  said = comparison.text(found)
  assert 'B is unfinished' in said and 'promoted recipes are not compared' in said


def test_what_cannot_be_compared_is_a_sentence(make_run, tmp_path):
  a = make_run('a')
  with pytest.raises(comparison.ComparisonError, match='the same run'):
    comparison.compare(a, a.parent / '.' / 'a')
  shutil.copytree(a, tmp_path / 'copy')
  with pytest.raises(comparison.ComparisonError, match='is a copy of'):
    comparison.compare(a, tmp_path / 'copy')
  with pytest.raises(NoRunError, match='is not a run'):
    comparison.compare(a, tmp_path)
  b = make_run('b', pause=9.0)
  (b / 'ledger.jsonl').write_bytes(
    (b / 'ledger.jsonl').read_bytes().replace(b'"r1w1"', b'"r1w0"', 1)
  )
  with pytest.raises(LedgerError):
    comparison.compare(a, b)


def test_the_unpaired_interval_covers_what_it_promises():
  """Two recipes of three seeds each on items of their own, .05 apart."""
  rng, hits, trials = np.random.default_rng(4), 0, 200

  def draw(mean):
    easy = rng.uniform(mean - 0.3, mean + 0.3, 500)
    return np.stack([rng.random(500) < easy + 0.02 * rng.standard_normal() for _ in range(3)])

  for trial in range(trials):
    interval = unpaired_bootstrap(draw(0.55), draw(0.5), seed=trial, resamples=300)[1]
    hits += interval.low <= 0.05 <= interval.high
  assert 0.92 <= hits / trials <= 1.0
  constant = np.ones((1, 4))
  assert unpaired_bootstrap(constant, 0 * constant, seed=0) == (1.0, (1.0, 1.0))


def test_the_command(make_run):
  a, b = make_run('a'), make_run('b', accuracy=BETTER, pause=5.0)
  done = aevo('compare', a, b, '--json')
  assert done.returncode == 0 and json.loads(done.stdout)['difference']['value'] == pytest.approx(
    0.1
  ), done.stderr
  same = aevo('compare', a, a)
  assert same.returncode == 1 and 'the same run' in same.stderr and 'Traceback' not in same.stderr


def test_a_run_that_promoted_nothing_is_said_to_have_its_starting_recipe_twice(make_run):
  compared = comparison.compare(make_run('a'), make_run('b', promote=False))
  assert compared['promoted'] == [True, False]
  lines = comparison.text(compared).splitlines()
  assert 'B promoted nothing: what is called so is its starting recipe again' in lines
  assert not any(line.startswith('A promoted nothing') for line in lines)
