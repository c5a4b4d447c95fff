"""From an alarm to another objective and its control arm, in whole simulated campaigns."""

import dataclasses

import pytest

from aevo_jax.config.constitution import Control
from aevo_jax.meta_agent.policy import ANCHOR
from aevo_jax.simulation.campaign import Simulator, simulate
from aevo_jax.simulation.scenario import Scenario


def played(world: Scenario, index: int):
  """Policies and alarms of a campaign."""
  simulator = Simulator(world, index)
  return simulator, simulate(simulator, world, 'statistical', index)


@pytest.fixture(scope='module')
def revised(scenario):
  """A campaign in which an alarm came while rounds were left."""
  world = scenario('drawn', plant='reversal', rounds=6, plant_size=4.0, plant_round=3)
  for index in range(30):
    simulator, policies = played(world, index)
    if policies[6].objectives:
      simulator.index = index
      return world, simulator, policies
  raise AssertionError('no alarm in 30 campaigns with a reversal of 4 in log-odds')


def test_an_alarm_changes_the_familys_objective_and_says_so(revised):
  _, simulator, policies = revised
  first = next(p for p in policies if p.objectives)
  before = policies[first.round - 1]
  streams = {a.stream for a in simulator.detector.alarms if a.round == before.round}
  assert set(first.objectives) == streams - {'overall'} and not before.objectives
  for family, worth in first.objectives.items():
    assert -1 <= worth < 1 and any(r.startswith(f'{family}: dev is ') for r in first.reasons)
    assert first.trust['dev'][family] == max(worth, 0.0)


def test_the_control_arm_runs_what_the_policy_would_have_assigned_without_the_revision(revised):
  world, _, policies = revised
  first = next(p for p in policies if p.objectives)
  rules = world.constitution.control
  arms = [a.arm for a in first.assignments if a.axis != ANCHOR]
  assert (
    arms.count('control') == rules.workers and arms.count('revised') == len(arms) - rules.workers
  )
  assert first.control == rules.rounds and first.objectives_before == {}
  assert all(not a.arm for p in policies[: first.round] for a in p.assignments)
  later = [
    p
    for p in policies
    if p.round >= first.round + rules.rounds and p.objectives == first.objectives
  ]
  assert all(not a.arm for p in later for a in p.assignments)
  assert any(r.startswith('control arm: ') for r in first.reasons)


def test_without_control_workers_nobody_goes_on_as_before(revised):
  world, simulator, policies = revised
  alone = dataclasses.replace(
    world, constitution=dataclasses.replace(world.constitution, control=Control(workers=0))
  )
  _, found = played(alone, simulator.index)
  first = next(p for p in policies if p.objectives)
  assert found[first.round].objectives == first.objectives and all(
    not a.arm for p in found for a in p.assignments
  )
  assert any('no control arm' in r for r in found[first.round].reasons)
