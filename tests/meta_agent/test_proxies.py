"""Proxies that judge each other: who departed, who cannot be told, what trust follows, and the
score by hand. Rates are measured by benchmarks/proxy_consensus.py.
"""

import dataclasses

import numpy as np
import pytest

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift import proxies

RULES = Reversal()
NAMES = ('dev', 'rules', 'families', 'order', 'samples')


def rounds(
  count: int,
  bad: int = 0,
  *,
  seed: int = 0,
  number: int = 6,
  trials: int = 40,
  streams=('overall',),
  onset: int = 3,
  names=NAMES,
) -> list[proxies.Round]:
  """Coupled proxies, of which the first `bad` follow another quality from `onset` on; so many
  trials that nothing is left to chance.
  """
  rng, made = np.random.default_rng(seed), []
  for k in range(1, number + 1):
    quality, other = rng.standard_normal((2, trials))
    follows = [other if j < bad and k >= onset else quality for j in range(count)]
    scores = {
      names[j]: 0.5 + 0.03 * (0.8 * follows[j] + 0.6 * rng.standard_normal((len(streams), trials)))
      for j in range(count)
    }
    made.append(
      {
        f't{i}': {
          name: {s: (float(x[n, i]), 0.0) for n, s in enumerate(streams)}
          for name, x in scores.items()
        }
        for i in range(trials)
      }
    )
  return made


def judge(made):
  return proxies.judge(made, RULES, len(made))


@pytest.mark.parametrize(('count', 'bad'), [(5, 1), (3, 1), (5, 2)])
def test_who_departs_from_a_majority_is_named_and_loses_trust_for_good(count, bad):
  said = judge(rounds(count, bad))
  first = next(i for i, j in enumerate(said) if j.departed)
  assert first >= 2 and set(said[first].departed['overall']) <= set(NAMES[:bad])
  assert {p for j in said for p in j.departed.get('overall', ())} == set(NAMES[:bad])
  assert said[-1].trust == {
    name: {'overall': 0.0 if name in NAMES[:bad] else 1.0} for name in NAMES[:count]
  }
  for name in said[first].departed['overall']:
    assert said[first].verdicts['overall'][name].verdict in (
      'reversed',
      'decoupled',
    ) and name not in (said[-1].verdicts['overall'] if first < 5 else {})
  assert said[-1].to_json()['evidence'] == 'proxies only, weaker'


@pytest.mark.parametrize(('count', 'bad'), [(2, 1), (4, 2)])
def test_half_against_half_is_a_dispute(count, bad):
  said = judge(rounds(count, bad))
  assert not any(j.departed for j in said)
  told = {v.verdict for v in said[-1].verdicts['overall'].values()}
  assert told == {'undetermined: they disagree'} and {
    t['overall'] for t in said[-1].trust.values()
  } == {0.5}


def test_coupled_proxies_are_coupled_and_trusted():
  said = judge(rounds(5))
  assert {v.verdict for v in said[-1].verdicts['overall'].values()} == {'coupled'}
  assert all(not j.departed and {t['overall'] for t in j.trust.values()} == {1.0} for j in said)


def test_all_departing_together_shows_nothing():
  assert not any(j.departed for j in judge(rounds(5, 5)))


def test_a_departure_on_one_family_costs_trust_there_alone():
  made = rounds(5, 0, streams=('overall', 'a', 'b'))
  rng = np.random.default_rng(9)
  for round_ in made[2:]:
    for trial in round_.values():
      trial['dev']['a'] = (0.5 + 0.03 * float(rng.standard_normal()), 0.0)
  trust = judge(made)[-1].trust
  assert trust['dev'] == {'overall': 1.0, 'a': 0.0, 'b': 1.0} and all(
    t == 1.0 for name in NAMES[1:] for t in trust[name].values()
  )


def test_names_and_order_of_proxies_and_trials_carry_no_meaning():
  made = rounds(5, 1, number=4)
  other = dict(zip(NAMES, ('v', 'z', 'a', 'dev', 'x'), strict=True))
  renamed = [
    {
      f'u{name}': {other[p]: parts for p, parts in reversed(trial.items())}
      for name, trial in reversed(round_.items())
    }
    for round_ in made
  ]
  for a, b in zip(judge(made), judge(renamed), strict=True):
    assert {other[p]: t for p, t in a.trust.items()} == b.trust and a.thresholds == b.thresholds
    for p, verdict in a.verdicts['overall'].items():
      for field, value in dataclasses.asdict(b.verdicts['overall'][other[p]]).items():
        expected = getattr(verdict, field)
        assert value == (
          pytest.approx(expected, rel=1e-6) if isinstance(expected, float) else expected
        )


def test_a_proxy_that_never_differs_has_no_say_and_breaks_nothing():
  made = rounds(3, names=('dev', 'rules', 'order'), number=3, trials=8)
  for round_ in made:
    for trial in round_.values():
      trial['flat'] = {'overall': (0.5, 0.001)}
  said = judge(made)[-1]
  assert said.verdicts['overall']['flat'].verdict == 'undetermined' and said.trust['flat'] == {
    'overall': 1.0
  }


@pytest.mark.parametrize(
  'made',
  [[], [{}], [{}, rounds(3, number=1, trials=3)[0]]],
  ids=['no rounds', 'all failed', 'one failed'],
)
def test_rounds_without_trials_are_survived(made):
  assert len(proxies.judge(made, RULES, 4)) == len(made)


# -- scores and consensus --------------------------------------------------------------------------


def part(correct, total):
  return {'correct': correct, 'total': total, 'accuracy': correct / total}


def test_scores_of_a_trial_by_hand():
  dev = {'overall': part(9, 20), 'by_family': {'a': part(2, 10), 'b': part(6, 6), 'c': part(1, 4)}}
  probe = {
    'overall': {'accuracy': 0.5, 'total': 4, 'variance': 0.06},
    'by_family': {'a': {'accuracy': 0.5, 'total': 4, 'variance': 0.06}},
  }
  found = proxies.scores(dev, {'rules': probe})
  assert found['rules'] == {'overall': (0.5, 0.06), 'a': (0.5, 0.06)}
  assert (
    found['dev']['a'] == (0.2, pytest.approx((10 * 0.2 * 0.8 + 0.25) / 100))
    and found['dev']['b'][1] > 0
  )
  assert found['cross']['a'][0] == pytest.approx((1 + 0.25) / 2) and 'overall' not in found['cross']


def test_the_consensus_by_hand():
  trial = {
    'dev': {'overall': (0.6, 0.0), 'a': (0.8, 0.0), 'b': (0.4, 0.0)},
    'rules': {'overall': (0.3, 0.0), 'a': (0.2, 0.0), 'b': (0.4, 0.0)},
    'families': {'overall': (0.9, 0.0)},
    'cross': {'a': (1.0, 0.0), 'b': (1.0, 0.0)},
  }
  shares = {'a': 0.5, 'b': 0.5}
  assert proxies.consensus(trial, {}, shares) == pytest.approx(
    {'overall': (0.6 + 0.3 + 0.9) / 3, 'a': 0.5, 'b': 0.4}
  )
  # dev is not believed on a, where the consensus, rules' .2, takes its place: .6 becomes .6 + .5
  # (.2 - .8) = .3
  assert proxies.consensus(trial, {'dev': {'a': 0.0}}, shares) == pytest.approx(
    {'overall': (0.3 + 0.3 + 0.9) / 3, 'a': 0.2, 'b': 0.4}
  )
  assert proxies.consensus(trial, {'dev': {'overall': 0.0, 'a': 0.5}}, shares) == pytest.approx(
    {'overall': 0.6, 'a': (0.4 + 0.2) / 1.5, 'b': 0.4}
  )
