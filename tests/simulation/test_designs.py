"""Campaigns without an agent: the arrays' verdicts are those of the functions that judge a real
campaign, and alarms are as rare and as frequent as they should be.
"""

import dataclasses

import numpy as np
import pytest

from aevo_jax.simulation import designs
from aevo_jax.simulation.campaign import Simulator
from aevo_jax.simulation.detector import Detector


@pytest.mark.parametrize(
  ('surface', 'plant', 'size'),
  [('drawn', 'reversal', 5.0), ('drawn', 'none', 0.0), ('flat', 'none', 0.0)],
)
def test_alarms_are_those_of_the_detector(scenario, surface, plant, size):
  """Campaign by campaign, and of scores that are against each other from the start, so that the
  ranks alarm too.
  """
  world = scenario(surface, plant, rounds=5, plant_size=size, replays=100)
  found, number = designs.run(world, range(12)), 0
  turned = []
  for index in range(12):
    simulator = Simulator(world, index)
    dev, external = designs.measure(simulator, world, index)
    turned.append(
      (dev, external, 1 - dev + 0.02 * np.random.default_rng(index).standard_normal(dev.shape))
    )
    for r in range(5):
      simulator.detector.judge(dev[r], external[r])
    assert list(found[index].alarms) == sorted(
      simulator.detector.alarms, key=lambda a: (a.round, a.stream)
    )
    number += len(simulator.detector.alarms)
  assert (number >= 8) == (plant != 'none')
  against = designs.judge(np.stack([t[0] for t in turned]), np.stack([t[2] for t in turned]), world)
  for index, (dev, _, other) in enumerate(turned):
    detector = Detector(world.constitution, world.families, 100, index)
    for r in range(5):
      detector.judge(dev[r], other[r])
    assert against[index] == sorted(detector.alarms, key=lambda a: (a.round, a.stream))
    assert any(a.verdict == 'reversed' for a in against[index])


def test_a_round_too_small_for_a_slope_raises_no_alarm(scenario):
  """Four workers: the round after calibration has too few degrees of freedom, the calibration
  rounds have enough.
  """
  world = scenario(rounds=3)
  small = dataclasses.replace(
    world.constitution, budget=dataclasses.replace(world.constitution.budget, workers=4)
  )
  found = designs.run(dataclasses.replace(world, constitution=small), range(20))
  assert sum(bool(o.alarms) for o in found) <= 4


def test_false_alarms_and_detections(scenario):
  """150 campaigns each: alarms where nothing is planted at most at alpha = .05 (more than 16 of 150
  have probability .001), and a strong plant is mostly found.
  """
  null = designs.run(scenario(), range(150))
  assert sum(bool(o.alarms) for o in null) <= 16
  strong = designs.run(scenario(plant='reversal', plant_size=6.0, plant_round=3), range(60))
  assert (
    sum(
      any(a.stream in (o.shift.family, 'overall') and a.round >= 3 for a in o.alarms)
      for o in strong
    )
    >= 36
  )


def test_the_exact_test_is_refused(scenario):
  world = scenario()
  exact = dataclasses.replace(
    world.constitution, reversal=dataclasses.replace(world.constitution.reversal, test='exact')
  )
  with pytest.raises(ValueError, match='name an agent'):
    designs.run(dataclasses.replace(world, constitution=exact), range(2))
