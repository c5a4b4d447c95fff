"""The demo's constitution and small scenarios on it."""

import pytest

from aevo_jax import layout
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.simulation.scenario import Scenario
from aevo_jax.simulation.settings import Settings
from aevo_jax.tasks.mixture import FAMILIES

TRIALS = str(layout.root_file('constitution.gin').parent / 'benchmarks' / 'results' / 'trials.json')


@pytest.fixture(scope='session')
def scenario():
  """scenario(surface, plant, rounds, **settings) -> Scenario."""

  def make(surface='drawn', plant='none', rounds=4, **settings):
    loading.load(
      [str(layout.root_file('constitution.gin'))],
      [f'budget.rounds = {rounds}'],
      search_paths=layout.search_paths(),
    )
    settings = Settings(surface=surface, trials=TRIALS if surface == 'fitted' else '', **settings)
    return Scenario(
      constitution_lib.from_gin(),
      settings,
      (layout.root_file('substrate') / 'recipe.gin').read_text(),
      tuple(FAMILIES),
      plant,
    )

  return make
