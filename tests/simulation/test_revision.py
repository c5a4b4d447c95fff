"""From an alarm to another objective and its control arm, in whole simulated campaigns."""

import dataclasses

import pytest

from aevo_jax.config.constitution import Control
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


def test_old_and_new_objectives_run_their_recipes_until_the_look(revised):
  world, _, policies = revised
  first = next(p for p in policies if p.objectives)
  assert first.reasons[0].startswith(tuple(first.objectives))
  assert any('control arm' in r for r in first.reasons)
  for policy in policies:
    names = [a.arm for a in policy.assignments]
    expected = world.constitution.control.workers if policy.look else 0
    assert names.count('control') == names.count('revised') == expected
    for arm in ('control', 'revised'):
      overlays = {str(a.overlay) for a in policy.assignments if a.arm == arm}
      assert len(overlays) == bool(expected)


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
  assert not any('control arm' in r for r in found[first.round].reasons)
