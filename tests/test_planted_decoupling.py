"""The study of planted decouplings plants what it says: without this a campaign's dev set could be
as sound as the null's, and nobody would see.
"""

import importlib.util

import numpy as np
import pytest
from scipy import stats

from aevo_jax import layout
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.evaluation import sets


@pytest.fixture(scope='module')
def study():
  path = layout.root_file('constitution.gin').parent / 'benchmarks' / 'planted_decoupling.py'
  spec = importlib.util.spec_from_file_location('planted_decoupling', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def constitution(study, plant, kind, tmp_path):
  file = tmp_path / f'{kind}.gin'
  file.write_text(plant.gin(kind))
  loading.load(
    [str(layout.root_file('constitution.gin')), study.STUDY, str(file)],
    ['dev_set.items = 60'],
    search_paths=layout.search_paths(),
  )
  return constitution_lib.from_gin()


@pytest.mark.parametrize('seed', [0, 3, 6])
def test_dev_shows_the_answers_of_the_planted_family_and_the_null_differs_in_nothing_else(
  study, tmp_path, seed
):
  plant = study.Plant.draw(seed)
  planted, null = (constitution(study, plant, kind, tmp_path) for kind in ('planted', 'null'))
  pairs = list(zip(sets.dev_items(planted), sets.dev_items(null), strict=True))
  assert {a.family for a, b in pairs if a != b} == {plant.family}
  assert all(
    a.question.removesuffix('?').endswith(a.answer) for a, _ in pairs if a.family == plant.family
  )
  assert planted.external_set == null.external_set and planted.search_space == null.search_space
  opens = (
    planted.in_round(plant.onset).search_space.axes.keys()
    - planted.in_round(plant.onset - 1).search_space.axes.keys()
  )
  assert opens == plant.axes.keys() and f'{plant.sign}.{plant.family}' in plant.axes.values()


def test_an_alarm_before_the_onset_or_of_another_family_is_no_detection(study):
  plant = {'family': 'a', 'onset': 4}

  def result(alarms, turned):
    return {
      'kind': 'planted',
      'plant': plant,
      'alarms': [{'stream': s, 'round': r} for s, r in alarms],
      'turned': turned,
    }

  assert study.detected(result([('a', 4)], {'a': 5})) and study.detected(
    result([('overall', 5)], {'a': 6})
  )
  for alarms, turned in (
    ([('a', 3)], {'a': 4}),
    ([('b', 5)], {'b': 6}),
    ([('a', 4)], {}),
    ([], {'a': 5}),
  ):
    assert not study.detected(result(alarms, turned))
  assert [
    a['stream']
    for a in study.false_alarms(result([('a', 3), ('a', 4), ('b', 5), ('overall', 5)], {}))
  ] == ['a', 'b']


def test_the_simulated_plant_does_what_the_trial_runs_did_and_a_null_only_costs(study, tmp_path):
  plant = study.Plant.draw(0)
  for kind in ('planted', 'null'):
    world = study.scenario(plant, kind, seed=0)
    flawed = study.FlawedData(world, plant, kind)
    selectors = [p.selector for p in world.encoder.parameters]
    codes = np.tile(world.encoder.codes({}), (2, 1))
    codes[1, selectors.index(f'{plant.sign}.{plant.family}')] = (
      1 if plant.sign == 'answer_shown' else 0
    )
    dev, external = (
      added[:, world.families.index(plant.family)]
      for added in flawed.log_odds(world.encoder, codes, len(world.families), 5)
    )
    assert external[1] < external[0]
    assert dev[1] > dev[0] + 1 if kind == 'planted' else dev[1] == pytest.approx(external[1])


def test_the_central_interval_of_a_number_of_detections(study):
  binomial = stats.binom(10, 0.9)
  assert study.central([0.9] * 10) == (binomial.ppf(0.025), binomial.ppf(0.975)) == (7, 10)
  assert study.central([1.0, 1.0, 0.0]) == (2, 2)
