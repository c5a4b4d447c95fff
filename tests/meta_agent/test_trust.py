"""What verdicts do to trust and objectives."""

import pytest

from aevo_jax.meta_agent.trust import revise


def verdict(name, *, slope=None, reference=None, e=None, p=0.001):
  return {'verdict': name, 'test': 'slope', 'statistic': -3.0, 'p_value': None if e else p, 'e_value': e, 'n': 24, 'slope': slope, 'reference_slope': reference}


def test_without_an_alarm_nothing_changes():
  assert revise({}, {}, {'a': verdict('coupled'), 'overall': verdict('undetermined')}) == revise({}, {}, {})
  assert revise({}, {}, {}).objectives == {} and revise({}, {}, {}).trust == {} and revise({}, {}, {}).reasons == ()


@pytest.mark.parametrize(('spoken', 'worth', 'trust', 'words'), [
    (verdict('decoupled', slope=0.2, reference=0.8), 0.25, 0.25, 'a step of dev counts 0.25'),
    (verdict('decoupled', slope=-0.4, reference=0.8), -0.5, 0.0, 'lowers dev while the external score rises'),
    (verdict('reversed', slope=0.2, reference=0.8, e=150.0), 0.0, 0.0, 'only the external score'),
    (verdict('reversed', slope=-3.0, reference=0.8, e=150.0), -1.0, 0.0, 'lowers dev'),
    (verdict('reversed', e=150.0), 0.0, 0.0, 'no longer rewards dev')])
def test_an_alarm_makes_a_step_of_dev_worth_its_measured_slope(spoken, worth, trust, words):
  found = revise({}, {}, {'a': spoken, 'b': verdict('coupled')})
  assert found.objectives == {'a': worth} and found.trust == {'dev': {'a': trust}}
  assert len(found.reasons) == 1 and words in found.reasons[0] and found.reasons[0].startswith('a: dev is ')


def test_trust_is_not_regained_and_can_be_lost_further():
  first = revise({}, {}, {'a': verdict('decoupled', slope=0.2, reference=0.8)})
  assert revise(first.objectives, first.trust, {'a': verdict('coupled')}).objectives == first.objectives
  better = revise(first.objectives, first.trust, {'a': verdict('decoupled', slope=0.4, reference=0.8)})
  assert better.objectives == first.objectives and better.reasons == ()
  assert revise(first.objectives, first.trust, {'a': verdict('decoupled', slope=-0.8, reference=0.8)}).objectives == {'a': -1.0}


def test_an_alarm_on_the_overall_score_names_no_family():
  found = revise({}, {}, {'overall': verdict('decoupled', slope=0.2, reference=0.8)})
  assert found.objectives == {} and found.trust == {'dev': {'overall': 0.25}} and 'overall' in found.reasons[0]
