"""Surfaces: where they start, what they depend on, and the long search against a fine grid."""

import dataclasses
import math

import numpy as np
import pytest

from aevo_jax.config.search_space import SearchSpace
from aevo_jax.meta_agent import encoding
from aevo_jax.meta_agent.encoding import Encoder
from aevo_jax.simulation import surface as surface_lib
from aevo_jax.simulation.settings import Settings


def make(scenario, seed=0):
  return surface_lib.make(
    scenario.encoder,
    scenario.families,
    scenario.settings,
    np.random.default_rng(seed),
    scenario.posterior,
  )


@pytest.mark.parametrize('kind', ['drawn', 'rugged', 'flat', 'fitted'])
def test_the_starting_recipe_adds_nothing_and_others_do_but_on_the_flat_one(scenario, kind):
  world = scenario(kind)
  surface = make(world)
  np.testing.assert_allclose(surface.effect(world.encoder.codes({})[None]), 0.0, atol=1e-12)
  np.testing.assert_allclose(
    surface.accuracies(world.encoder.codes({})[None])[0], 1 / (1 + np.exp(-surface.levels))
  )
  effects = surface.effect(world.pool[:100])
  assert (
    effects.shape == (100, 6)
    and (effects.std(axis=0) > 0.05).all() == (kind != 'flat')
    and effects.any() == (kind != 'flat')
  )
  np.testing.assert_array_equal(effects, make(world).effect(world.pool[:100]))
  if kind != 'flat':
    assert (effects != make(world, 1).effect(world.pool[:100])).any()


def test_a_dead_parameter_moves_nothing(scenario):
  world = scenario('rugged')
  encoder = world.encoder

  def lora(method, rank):
    return encoder.codes({'adaptation.method': method, 'lora.rank': rank})

  for kind in ('drawn', 'rugged'):
    moved = []
    for seed in range(20):
      effect = surface_lib.make(
        encoder,
        world.families,
        dataclasses.replace(world.settings, surface=kind, change_cost=0.0),
        np.random.default_rng(seed),
      ).effect
      np.testing.assert_array_equal(*(effect(lora('full', rank)[None]) for rank in (4, 32)))
      moved.append((effect(lora('lora', 4)[None]) != effect(lora('lora', 32)[None])).any())
    assert sum(moved) >= 5


def test_a_parameter_named_after_a_family_moves_that_one_most(scenario):
  world = scenario('drawn', change_cost=0.0)
  codes = np.asarray(
    [
      world.encoder.codes({'solution_style.unit_conversion': style})
      for style in ('worked', 'steps', 'bare')
    ]
  )
  spread = np.mean([make(world, seed).effect(codes).std(axis=0) for seed in range(30)], axis=0)
  own = world.families.index('unit_conversion')
  assert (
    spread[own] > 3 * np.delete(spread, own).max()
  )  # the next one is gravity's, whose style is in the same axis and acts together with it


def test_the_long_search_finds_what_a_grid_finds():
  """Two axes on a known bowl: 5 log-odds up from the starting recipe at a = .9, b = .2."""
  literals = {name: {f'train.{name}': {'kind': 'float', 'low': 0.0, 'high': 1.0}} for name in 'ab'}
  encoder = Encoder(SearchSpace.from_literals(literals), {'train.a': 0.1, 'train.b': 0.5})

  def bowl(codes):
    return -((codes[:, 0] - 0.9) ** 2 + (codes[:, 1] - 0.2) ** 2)[:, None]

  origin = float(bowl(encoder.codes({})[None])[0, 0])
  surface = surface_lib.Surface(encoder, ('only',), np.zeros(1), lambda codes: bowl(codes) - origin)
  grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 101)] * 2), axis=-1).reshape(-1, 2)
  best = surface.best(np.random.default_rng(0))
  assert (
    surface.accuracies(encoder.codes({})[None]).mean()
    < best
    <= surface.accuracies(grid).mean(axis=1).max() + 1e-9
  )
  assert best == pytest.approx(1 / (1 + math.exp(origin)), abs=2e-3)


@pytest.mark.parametrize('harm', [0.0, 0.15])
def test_one_value_of_one_choice_gains_and_the_first_family_may_fall(scenario, harm):
  surface = make(scenario('single', gain=0.04, slice_harm=harm))
  start = surface.encoder.codes({})
  gains = []
  for i, parameter in enumerate(surface.encoder.parameters):
    for value in range(len(encoding.levels(parameter))):
      code = start.copy()
      code[i] = value
      change = (surface.accuracies(code[None]) - surface.accuracies(start[None]))[0]
      if abs(change).max() > 1e-9:
        gains.append(change)
  (change,) = gains
  assert change.mean() == pytest.approx(0.04, abs=1e-6)
  assert change[0] == pytest.approx(-harm, abs=1e-6) or not harm
  assert (change[1:] > 0).all()


def test_settings_that_cannot_be_are_refused():
  for fields, said in (
    ({'surface': 'smooth'}, 'must be one of'),
    ({'surface': 'fitted'}, 'needs simulation.trials'),
    ({'trials': 'x'}, 'no other surface'),
    ({'base': 1.0}, r'simulation\.base must lie in \(0, 1\), got 1\.0'),
    ({'seed_sd': -1.0}, 'seed_sd must be >= 0'),
    ({'tail': 2}, 'no sd is finite'),
  ):
    with pytest.raises(ValueError, match=said):
      Settings(**fields)
