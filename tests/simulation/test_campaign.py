"""Whole simulated campaigns: what is scored, that they repeat, and the accounts of promotions."""

import importlib.util
import math

import numpy as np
import pytest

from aevo_jax.campaign.decisions.state import CampaignState
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.registry import AGENTS, OFFLINE
from aevo_jax.simulation import campaign, study
from aevo_jax.simulation.campaign import Outcome, Simulator
from aevo_jax.simulation.detector import Alarm
from aevo_jax.simulation.injected_shift import Onset


def test_scores_are_the_surface_with_noise_of_seeds_sets_and_items(scenario):
  world = scenario('drawn', seed_sd=0.1, transfer_sd=0.05)
  simulator = Simulator(world, 3)
  dev, external = simulator.scores(np.repeat(world.encoder.codes({})[None], 4000, axis=0), 1)
  truth = simulator.surface.accuracies(world.encoder.codes({})[None])[0]
  np.testing.assert_allclose(dev.mean(axis=0), truth, atol=0.01)
  slope = truth * (1 - truth)  # of the sigmoid
  for scores, items, luck in ((dev, 200, 0.1), (external, 500, math.hypot(0.1, 0.05))):
    np.testing.assert_allclose(
      scores.std(axis=0), np.sqrt(slope / items + (slope * luck) ** 2), rtol=0.08
    )
  shared = [np.cov(dev[:, f], external[:, f])[0, 1] for f in range(6)]
  np.testing.assert_allclose(
    shared, (slope * 0.1) ** 2, rtol=0.5
  )  # the seed's luck is on both sides


def test_laws_of_noise(scenario):
  """Sds of the mean over families, in log-odds at the level of the starting recipe."""
  quiet = {'base_sd': 0.0, 'seed_sd': 0.0, 'transfer_sd': 0.0, 'surface': 'flat'}

  def sds(changed=False, round_=1, **settings):
    world = scenario(**quiet, **settings)
    simulator = Simulator(world, 3)
    code = world.encoder.codes({'train.batch_rows': 32} if changed else {})
    truth = simulator.surface.accuracies(code[None])[0]
    slope = float((truth * (1 - truth)).mean())
    simulator._measure = lambda accuracies, items: accuracies
    scores = simulator.scores(np.repeat(code[None], 4000, axis=0), round_)
    return [float(part.mean(axis=1).std()) / slope for part in (scores.dev, scores.external)]

  assert sds(shared_sd=0.1) == pytest.approx([0.1, 0.1], rel=0.05)
  assert sds(external_sd=0.1) == pytest.approx([0.0, 0.1], rel=0.05, abs=1e-9)
  assert sds(external_sd=0.1, tail=5)[1] == pytest.approx(0.1, rel=0.15)
  assert sds(external_sd=0.1, round_=2, noise_growth=0.5)[1] == pytest.approx(0.225, rel=0.05)
  assert sds(external_sd=0.1, changed=True, changed_noise=3.0)[1] == pytest.approx(0.3, rel=0.07)
  assert sds(external_sd=0.05, changed=True, wild_share=1.0)[1] == pytest.approx(0.25, rel=0.07)
  # All trials of a round share it.
  assert sds(round_sd=0.1)[1] == pytest.approx(0.0, abs=1e-9)
  rounds = np.repeat(np.arange(400), 10)
  assert sds(round_sd=0.1, round_=rounds)[1] == pytest.approx(0.1, rel=0.12)


def test_a_round_releases_within_the_quota_the_anchors_first(scenario):
  world = scenario(verdicts=False)
  simulator, state = Simulator(world, 0), CampaignState()
  evidence = simulator.run_round(state, policy_lib.starting(3))
  assert [t.external is not None for t in evidence.trials] == [True] * 3
  assert all(t.dev.by_family.keys() == set(world.families) for t in evidence.trials)
  assert evidence.noise.degrees_of_freedom == 2 and sorted(state.ranks[0].values()) == [
    0,
    1,
    2,
  ]


@pytest.mark.parametrize('agent', ['random', 'statistical'])
def test_a_campaign_repeats_and_depends_on_its_index(scenario, agent):
  world = scenario(rounds=2, verdicts=False)
  outcomes = [campaign.run(world, agent, index) for index in (1, 1, 2)]
  assert outcomes[0] == outcomes[1] != outcomes[2]
  assert all(o.best >= max(o.gain, 0) and o.alarms is None for o in outcomes)


def test_every_agent_plays(scenario):
  world = scenario(rounds=1, verdicts=False)
  for agent in OFFLINE:
    if any(importlib.util.find_spec(extra.module) is None for extra in AGENTS[agent].extras):
      continue
    assert math.isfinite(campaign.run(world, agent, 0).gain), agent


def test_where_nothing_matters_every_promotion_is_false_and_costs_nothing(scenario):
  found = [campaign.run(scenario('flat', verdicts=False), 'random', index) for index in range(8)]
  assert any(o.promotions for o in found)
  assert all(o.false_promotions == o.promotions and o.gain == o.best == 0 for o in found)


def test_a_summary_by_hand():

  def alarm(round_, stream, verdict='decoupled'):
    return Alarm(round_, stream, verdict)

  found = [
    Outcome(0, 0.04, 0.10, 2, 1, (alarm(3, 'a'), alarm(4, 'b')), Onset('a', 3)),
    Outcome(1, -0.01, 0.05, 1, 1, (alarm(2, 'a'),), Onset('a', 3)),
    Outcome(2, 0.0, 0.03, 0, 0, (alarm(4, 'overall', 'reversed'),), Onset('b', 3)),
    Outcome(3, 0.05, 0.06, 1, 0, (), Onset('b', 3)),
  ]
  summary = study.summary(found, 8.0)
  assert (
    summary['gain']['mean'] == 0.02
    and summary['regret']['mean'] == 0.04
    and summary['campaigns_per_minute'] == 30
  )
  assert [
    summary[name]['share']
    for name in ('promoted', 'false_promotion', 'harmed', 'detected', 'false_alarm')
  ] == [0.75, 0.5, 0.25, 0.5, 0.5]
  assert {k: v['share'] for k, v in summary['detected_as'].items()} == {
    'decoupled': 0.25,
    'reversed': 0.25,
  }
  assert summary['rounds_from_onset_to_detection'] == {'0': 1, '1': 1}
  deviation = math.sqrt(sum((g - 0.02) ** 2 for g in (0.04, -0.01, 0.0, 0.05)) / 3)
  assert summary['gain']['high'] - 0.02 == pytest.approx(1.96 * deviation / 2, abs=1e-5)
  assert any('detected in 0.500' in line for line in study.lines(summary))


def test_where_nothing_was_judged_a_summary_says_nothing_of_alarms():
  summary = study.summary(
    [Outcome(0, 0.04, 0.10, 2, 1, None, None), Outcome(1, 0.0, 0.05, 0, 0, None, Onset('a', 3))],
    8.0,
  )
  assert not {'false_alarm', 'false_alarms_by_round', 'detected'} & summary.keys()
  assert not any('alarm' in line or 'detected' in line for line in study.lines(summary))
