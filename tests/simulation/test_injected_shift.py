"""Planted decouplings: where they begin, what they move, and that agents' seeds have no part in
them.
"""

import dataclasses

import numpy as np
import pytest

from aevo_jax import layout
from aevo_jax.campaign.setup import settings as _settings  # noqa: F401 registers what campaigns' gin binds
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.simulation import injected_shift
from aevo_jax.simulation.scenario import Scenario
from aevo_jax.simulation.settings import Settings
from aevo_jax.tasks.mixture import FAMILIES


@pytest.fixture(scope='module')
def study():
  """The study of planted decouplings, whose axes of flawed data open in round 3."""
  loading.load(
    [str(layout.root_file('constitution.gin')), 'configs/campaigns/decoupling_study.gin'],
    [],
    search_paths=layout.search_paths(),
  )
  settings = Settings(plant_axes=('data_3', 'data_4'), plant_harm=0.5)
  return Scenario(
    constitution_lib.from_gin(),
    settings,
    (layout.root_file('substrate') / 'recipe.gin').read_text(),
    tuple(FAMILIES),
    'reversal',
  )


def shifts(world, count=60):
  return [
    injected_shift.sample(
      world.shift, world.encoder, world.families, world.constitution, world.settings, i
    )
    for i in range(count)
  ]


@pytest.mark.parametrize('kind', ['shortcut', 'reversal'])
def test_it_moves_its_family_on_dev_from_its_onset_on(scenario, kind):
  world = scenario(plant=kind, rounds=6)
  for shift in shifts(world):
    before, after = (
      shift.log_odds(world.encoder, world.pool, 6, round_)
      for round_ in (shift.onset - 1, shift.onset)
    )
    assert not before[0].any() and not before[1].any()
    dev, external = after
    assert (dev[:, shift.family] > 0).any() or (dev[:, shift.family] < 0).any()
    assert (
      not np.delete(dev, shift.family, axis=1).any()
      and np.abs(dev).max() <= world.settings.plant_size
    )
    np.testing.assert_array_equal(external, -dev if kind == 'reversal' else np.zeros_like(dev))
    assert not shift.log_odds(world.encoder, world.encoder.codes({})[None], 6, 6)[
      0
    ].any()  # the starting recipe is as it was
    axis = [a.name for a in world.encoder.space.axes].index(shift.axis)
    moved = world.encoder.changed(world.encoder.codes({}), world.pool)[:, axis]
    assert not dev[~moved].any()


def test_family_axis_onset_and_direction_are_drawn_from_the_plant_seed_alone(scenario):
  world = scenario(plant='shortcut', rounds=6)
  drawn = shifts(world)
  assert (
    {p.family for p in drawn} == set(range(6))
    and {p.onset for p in drawn} == {3, 4, 5}
    and len({p.axis for p in drawn}) == 12
  )
  ends = [float(p.direction[0]) for p in drawn]
  assert 15 <= ends.count(1.0) <= 45

  def facts(found):
    return [(p.axis, p.family, p.onset, tuple(p.direction)) for p in found]

  def other(**fields):
    settings = dataclasses.replace(world.settings, **fields)
    return shifts(dataclasses.replace(world, settings=settings))

  assert facts(other(seed=9)) == facts(drawn) != facts(other(plant_seed=9))
  assert {p.onset for p in other(plant_round=4)} == {4}
  assert shifts(scenario(), 2) == [None, None]


def test_of_the_studys_axes_the_plant_is_one_that_opens_moves_its_own_family_and_rises_from_where_it_stands(  # noqa: E501 the name says it
  study,
):
  drawn = shifts(study)
  axes = study.constitution.search_space.axes
  assert {p.axis for p in drawn} == {'data_3', 'data_4'} and all(p.onset >= 3 for p in drawn)
  for shift in drawn:
    (selector,) = axes[shift.axis]
    assert study.families[shift.family] == selector.rpartition('.')[2]
    overlay = {selector: 1.0}
    dev, external = shift.log_odds(
      study.encoder, study.encoder.codes(study.encoder.prune(overlay))[None], 6, 6
    )
    assert dev[0, shift.family] == pytest.approx(study.settings.plant_size) and external[
      0, shift.family
    ] == pytest.approx(-0.5 * study.settings.plant_size)


def test_an_unknown_axis_is_named(study):
  with pytest.raises(ValueError, match="did you mean 'data_1'"):
    dataclasses.replace(study, settings=dataclasses.replace(study.settings, plant_axes=('dat_1',)))
