"""What verdicts do to trust and objectives."""

import pytest

from aevo_jax.meta_agent.drift.reversal import Verdict
from aevo_jax.meta_agent.drift.trust import revise


def verdict(name, *, slope=None, reference=None, e=None, p=0.001, gains=(None, None)):
  return Verdict(
    stream='',
    verdict=name,
    test='slope',
    statistic=-3.0,
    p_value=None if e else p,
    e_value=e,
    threshold=0.01,
    n=24,
    slope=slope,
    reference_slope=reference,
    slope_error=None,
    lambda_ratio=None,
    minimum_detectable_effect=None,
    effect='slope_drop',
    why='',
    dev_gain=gains[0],
    external_gain=gains[1],
  )


def test_without_an_alarm_nothing_changes():
  nothing = revise({}, {}, {}, ['a'])
  assert (
    revise({}, {}, {'a': verdict('coupled'), 'overall': verdict('undetermined')}, ['a']) == nothing
  )
  assert nothing.objectives == {} and nothing.trust == {} and nothing.reasons == ()


@pytest.mark.parametrize(
  ('spoken', 'worth', 'trust', 'words'),
  [
    (verdict('decoupled', slope=0.2, reference=0.8), 0.25, 0.25, 'a step of dev counts 0.25'),
    (
      verdict('decoupled', slope=-0.4, reference=0.8),
      -0.5,
      0.0,
      'lowers dev while the external score rises',
    ),
    (verdict('reversed', slope=0.2, reference=0.8, e=150.0), 0.0, 0.0, 'only the external score'),
    (verdict('reversed', slope=-3.0, reference=0.8, e=150.0), -1.0, 0.0, 'lowers dev'),
    (verdict('reversed', e=150.0), 0.0, 0.0, 'no longer rewards dev'),
    (verdict('gaining_nothing', gains=(0.2, 0.03)), 0.15, 0.15, 'a step of dev counts 0.15'),
    (verdict('gaining_nothing', gains=(0.2, -0.03)), 0.0, 0.0, 'dev is gaining nothing'),
  ],
)
def test_an_alarm_makes_a_step_of_dev_worth_its_measured_slope(spoken, worth, trust, words):
  found = revise({}, {}, {'a': spoken, 'b': verdict('coupled')}, ['a', 'b'])
  assert found.objectives == {'a': worth} and found.trust == {'dev': {'a': trust}}
  assert (
    len(found.reasons) == 1
    and words in found.reasons[0]
    and found.reasons[0].startswith('a: dev is ')
  )


def test_trust_is_not_regained_and_an_objective_changes_again_only_with_its_sign():
  first = revise({}, {}, {'a': verdict('decoupled', slope=0.2, reference=0.8)}, ['a'])

  def again(spoken):
    return revise(first.objectives, first.trust, {'a': spoken}, ['a'])

  assert again(verdict('coupled')).objectives == first.objectives
  for slope in (0.4, 0.19, 0.0):  # estimates move a little with every round
    assert (
      again(verdict('decoupled', slope=slope, reference=0.8)).objectives == first.objectives
      and again(verdict('decoupled', slope=slope, reference=0.8)).reasons == ()
    )
  turned = again(verdict('decoupled', slope=-0.8, reference=0.8))
  assert turned.objectives == {'a': -1.0} and turned.trust == {'dev': {'a': 0.0}} and turned.reasons


def test_an_alarm_on_the_overall_score_alone_concerns_the_families_that_nothing_vouches_for():
  spoken = {
    'overall': verdict('decoupled', slope=0.2, reference=0.8),
    'a': verdict('coupled'),
    'b': verdict('undetermined'),
  }
  found = revise({}, {}, spoken, ['a', 'b', 'c'])
  assert found.objectives == {'b': 0.25, 'c': 0.25} and found.trust == {
    'dev': {'overall': 0.25, 'b': 0.25, 'c': 0.25}
  }
  assert (
    all('overall, and nothing vouches for it here' in r for r in found.reasons)
    and len(found.reasons) == 2
  )
  beside = revise({}, {}, spoken | {'b': verdict('reversed', e=200.0)}, ['a', 'b', 'c'])
  assert beside.objectives == {'b': 0.0}  # the family that it names explains it
  assert revise({'b': 0.0}, {'dev': {'b': 0.0}}, spoken, ['a', 'b', 'c']).objectives == {
    'b': 0.0
  }  # and did before
