"""Campaigns without an agent: alarms are as rare and as frequent as they should be."""

import dataclasses

from aevo_jax.simulation import designs


def alarmed(found):
  return sum(bool(outcome.alarms) for outcome in found)


def test_false_alarms_and_detections(scenario):
  """150 campaigns each: alarms where nothing is planted at most at alpha = .05 (more than 16 of 150
  have probability .001), and a strong plant is mostly found.
  """
  assert alarmed(designs.run(scenario(), range(150))) <= 16
  strong = designs.run(scenario(plant='reversal', plant_size=6.0, plant_round=3), range(60))
  found = 0
  for outcome in strong:
    streams = (outcome.shift.family, 'overall')
    found += any(a.stream in streams and a.round >= 3 for a in outcome.alarms)
  assert found >= 36


def test_a_round_too_small_for_a_slope_raises_no_alarm(scenario):
  """Four workers: the round after calibration has too few degrees of freedom, the calibration
  rounds have enough.
  """
  world = scenario(rounds=3)
  budget = dataclasses.replace(world.constitution.budget, workers=4)
  small = dataclasses.replace(world.constitution, budget=budget)
  found = designs.run(dataclasses.replace(world, constitution=small), range(20))
  assert alarmed(found) <= 4
