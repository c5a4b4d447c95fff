"""Is a revision of the objectives called supported where it is none, and where it is one?

  .venv/bin/python benchmarks/attribution.py runs [--campaigns=4000]
      the comparison at the look on runs drawn from normal or heavy-tailed laws (seconds)
  .venv/bin/python benchmarks/attribution.py campaigns [--worlds=false_alarm,...] [--campaigns=400]
      whole campaigns of the statistical agent on drawn surfaces, six rounds of eight with an alarm
      after round 4; rows are appended as they are made, and those of other code are made again
  .venv/bin/python benchmarks/attribution.py table
      Markdown of benchmarks/results/attribution.json

A campaign counts as supported if the comparison at its look has p <= control.alpha. Of `runs` the
truth of both recipes and of the standing one is set. Of `campaigns` the alarm is put in after round
4, for the family of a planted reversal or, in nulls, for one in which dev and external agree. In
'bolder' and 'timid' the revised arm names the best recipe that changes at least four axes, or the
one that changes fewest; nothing else differs. `true` is the share of campaigns in which the revised
recipe is better by .005 than both others, without noise.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple
from unittest import mock

from aevo_jax.runtime import single_threaded_blas

single_threaded_blas()  # before numpy is imported

import numpy as np

from aevo_jax import layout
from aevo_jax.campaign.decisions import arms
from aevo_jax.campaign.decisions.next_policy import next_policy
from aevo_jax.campaign.decisions.state import CampaignState
from aevo_jax.campaign.trial.spec import trial_seed
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.constitution import Constitution
from aevo_jax.evaluation.servers import arbiter
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.drift.reversal import Verdict
from aevo_jax.meta_agent.observations import by_axis
from aevo_jax.simulation.campaign import Simulator
from aevo_jax.simulation.scenario import Scenario
from aevo_jax.simulation.settings import Settings
from aevo_jax.stats.intervals import wilson
from aevo_jax.tasks.mixture import FAMILIES

RESULTS = pathlib.Path(__file__).parent / 'results' / 'attribution.json'
ROUNDS = 6
ALARM = 4  # the round after which the alarm is put in
ITEMS = 3000
BETTER = 0.005
CODE = (
  'stats/comparisons/permutation.py',
  'stats/comparisons/recipe_comparison.py',
  'campaign/decisions/arms.py',
  'meta_agent',
  'simulation',
)


@functools.cache
def digest() -> str:
  """Of the code that decides the rows, this file among it."""
  root = pathlib.Path(arms.__file__).parents[2]
  paths = [pathlib.Path(__file__)]
  for name in CODE:
    paths += sorted((root / name).rglob('*.py')) or [root / name]
  # Without an external target; no part in these campaigns.
  paths = [path for path in paths if path.name != 'proxies.py']
  return hashlib.sha256(b''.join(path.read_bytes() for path in paths)).hexdigest()[:12]


def load() -> dict[str, dict]:
  return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def save(results: dict[str, dict]) -> None:
  RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')


def constitution(rounds: int = ROUNDS) -> Constitution:
  loading.load(
    [str(layout.root_file('constitution.gin'))],
    [f'budget.rounds = {rounds}'],
    search_paths=layout.search_paths(),
  )
  return constitution_lib.from_gin()


# -- runs with a known truth -----------------------------------------------------------------------


class Truth(NamedTuple):
  """Accuracies over the standing recipe's, in points, and noise of one run in each arm.

  The standing recipe's noise is `SD`. freedom: of Student's t, 0 for normal noise.
  """

  name: str
  revised: float
  control: float
  noise: tuple[float, float]
  runs: int = 6
  freedom: int = 0


SD = 0.012
EQUAL = (SD, SD)
TRUTHS = (
  Truth('alike, both equal to the standing recipe', 0, 0, EQUAL),
  Truth('alike, both .04 above it', 0.04, 0.04, EQUAL),
  Truth('alike, both .04 below it', -0.04, -0.04, EQUAL),
  Truth('revised more cautious: .02 less is lost (60 of 3,000 items)', -0.01, -0.03, EQUAL),
  Truth('revised changes nothing, control loses .04', 0, -0.04, EQUAL),
  Truth('revised bolder: .02 more is lost', -0.03, -0.01, EQUAL),
  Truth('revised bolder and three times as noisy, control .04 above', 0.04, 0.04, (3 * SD, SD)),
  Truth('revised three times as noisy, control loses .04', 0, -0.04, (3 * SD, SD)),
  Truth('control three times as noisy, both .04 above', 0.04, 0.04, (SD, 3 * SD)),
  Truth('all noise t(3), both .04 above', 0.04, 0.04, EQUAL, freedom=3),
  Truth('all noise t(3), control loses .04', 0, -0.04, EQUAL, freedom=3),
  Truth('one round left: alike, both .04 above', 0.04, 0.04, EQUAL, 3),
  Truth('one round left: revised changes nothing, control loses .04', 0, -0.04, EQUAL, 3),
  Truth('revised .02 above both', 0.02, 0, EQUAL),
  Truth('revised .03 above both', 0.03, 0, EQUAL),
  Truth('revised .04 above both', 0.04, 0, EQUAL),
  Truth('one round left: revised .03 above both', 0.03, 0, EQUAL, 3),
  Truth('one round left: revised .04 above both', 0.04, 0, EQUAL, 3),
  Truth('one round left: revised .05 above both', 0.05, 0, EQUAL, 3),
)
ANCHORS = 9  # of six rounds with three seeds before, where nothing was promoted


def draw_runs(truth: Truth, rng: np.random.Generator) -> dict[str, list[dict]]:
  def noise(count: int) -> np.ndarray:
    if truth.freedom:
      scale = np.sqrt(truth.freedom / (truth.freedom - 2))
      return rng.standard_t(truth.freedom, count) / scale
    return rng.standard_normal(count)

  groups = {
    'revised': (truth.revised, truth.noise[0], truth.runs),
    'control': (truth.control, truth.noise[1], truth.runs),
    'standing': (0.0, SD, ANCHORS),
  }
  runs = {}
  for name, (mean, sd, count) in groups.items():
    counts = np.rint(ITEMS * (0.5 + mean + sd * noise(count))).astype(int)
    runs[name] = [{'correct': int(c), 'total': ITEMS} for c in counts]
  return runs


def play_runs(campaigns: int) -> None:
  rules = constitution()
  results = load()
  for number, truth in enumerate(TRUTHS):
    rng = np.random.default_rng([7, number])
    supported = 0
    detectable = []
    for _ in range(campaigns):
      found = arbiter.arm_result(draw_runs(truth, rng), rules)
      supported += found['p_value'] <= rules.control.alpha
      detectable.append(found['detectable'])
    results[f'runs|{number:02}'] = {
      'name': truth.name,
      'code': digest(),
      'campaigns': campaigns,
      'supported': supported,
      'least_p_value': found['least_p_value'],
      'detectable': round(float(np.mean(detectable)), 4),
    }
    save(results)


# -- whole campaigns -------------------------------------------------------------------------------


class World(NamedTuple):
  """plant: size of a reversal in log-odds, 0 for a null. names: how the revised arm is bound."""

  name: str
  plant: float
  worth: float
  names: str = ''
  rounds: int = ROUNDS


WORLDS = {
  'false_alarm': World('dev is right, the alarm is false (worth -.5)', 0, -0.5),
  'false_alarm_mild': World('dev is right, the alarm is false (worth .3)', 0, 0.3),
  'bolder': World('null, the revised arm names at least four axes', 0, 1.0, 'bolder'),
  'timid': World('null, the revised arm names the fewest axes', 0, 1.0, 'timid'),
  'reversal_2': World('reversal of 2 log-odds from round 3', 2.0, -0.8),
  'reversal_4': World('reversal of 4 log-odds from round 3', 4.0, -0.8),
  'four_rounds': World('reversal of 2 log-odds, four rounds', 2.0, -0.8, '', ALARM),
}


def scenario(world: World) -> Scenario:
  settings = Settings(verdicts=False, plant_size=world.plant, plant_round=3)
  recipe = (layout.root_file('substrate') / 'recipe.gin').read_text()
  shift = 'reversal' if world.plant else 'none'
  return Scenario(constitution(world.rounds), settings, recipe, tuple(FAMILIES), shift)


def alarm(family: str, worth: float) -> dict:
  """Fields of a verdict that sets a family's objective to `worth`."""
  fields = {field.name: None for field in dataclasses.fields(Verdict)}
  fields |= {'stream': family, 'verdict': 'decoupled', 'test': 'slope', 'why': '', 'effect': ''}
  fields |= {'slope': worth, 'reference_slope': 1.0, 'p_value': 0.001, 'n': 16, 'statistic': -4.0}
  fields |= {'threshold': 0.01}
  return fields


def restricted(names: str) -> Callable:
  """`arms.Recipes.first` under new objectives with fewer recipes to name.

  The worth of such a family is .99, so that hardly anything else tells the arms apart.
  """
  first = arms.Recipes.first

  def named(recipes: arms.Recipes, history: Sequence, objectives: dict) -> dict:
    if not objectives or not names:
      return first(recipes, history, objectives)
    sizes = {}
    for evidence in history:
      for trial in evidence.explorers:
        sizes[trial.trial] = len(by_axis(trial.changes, recipes.space))
    wanted = 4 if names == 'bolder' else min(sizes.values())
    kept = []
    for evidence in history:
      trials = []
      for trial in evidence.trials:
        size = sizes.get(trial.trial, 0)
        if not size or (size >= wanted if names == 'bolder' else size == wanted):
          trials.append(trial)
      kept.append(dataclasses.replace(evidence, trials=tuple(trials)))
    return first(recipes, kept, objectives)

  return named


def play(world: World, index: int) -> dict:
  """One campaign: what was found at the look, and what is true."""
  setting = scenario(world)
  simulator = Simulator(setting, index)
  shift = simulator.shift
  family = setting.families[shift.family if shift else index % len(setting.families)]
  state = CampaignState()
  history = []
  policies = [policy_lib.starting(setting.constitution.budget.noise_seeds)]
  with mock.patch.object(arms.Recipes, 'first', restricted(world.names)):
    for round_ in range(world.rounds + 1):
      if round_ == ALARM:
        state.verdicts[round_] = {family: alarm(family, world.worth)}
      history.append(simulator.run_round(state, policies[-1]))
      policies.append(
        next_policy(
          history,
          policies[-1],
          setting.constitution,
          recipe=setting.recipe,
          agent='statistical',
          campaign_seed=trial_seed(setting.settings.seed, str(index)),
        )
      )
  begun = policies[ALARM + 1]
  row = {'reason': next((r for r in begun.reasons if 'control arm' in r), ''), 'result': None}
  if begun.look:
    row['result'] = state.attributions.get(begun.look)
    row['truths'] = [
      round(simulator.truth(overlay) - simulator.truth(begun.standing), 4)
      for overlay in (
        next(a.overlay for a in begun.assignments if a.arm == arm) for arm in ('revised', 'control')
      )
    ]
  return row


def play_campaigns(names: Sequence[str], campaigns: int) -> None:
  results = load()
  for name in names:
    key = f'campaigns|{name}'
    kept = results.get(key, {})
    if kept.get('code') != digest():
      kept = {'name': WORLDS[name].name, 'code': digest(), 'rows': []}
    while len(kept['rows']) < campaigns:
      kept['rows'].append(play(WORLDS[name], len(kept['rows'])))
      results[key] = kept
      if len(kept['rows']) % 20 == 0:
        save(results)
    save(results)


# -- table -----------------------------------------------------------------------------------------


def share(count: int, total: int) -> str:
  low, high = wilson(count, total)
  return f'{count / total:.3f} [{low:.3f}, {high:.3f}]'


def table(results: dict[str, dict]) -> str:
  alpha = constitution().control.alpha
  lines = [
    f'Noise of one run {SD}, {ANCHORS} anchors of the standing recipe:\n',
    '| truth: revised and control over the standing one | n | supported | least p | detectable |',
    '|---|---|---|---|---|',
  ]
  for key, row in sorted(results.items()):
    if key.startswith('runs|'):
      lines.append(
        f'| {row["name"]} | {row["campaigns"]} | {share(row["supported"], row["campaigns"])} | '
        f'{row["least_p_value"]} | {row["detectable"]:.3f} |'
      )
  lines += [
    '\nWhole campaigns of the statistical agent:\n',
    '| world | n | same recipe | compared | supported | true | supported where true '
    '| could not have been tested |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for name, world in WORLDS.items():
    if f'campaigns|{name}' in results:
      lines.append(_campaigns_row(world, results[f'campaigns|{name}']['rows'], alpha))
  codes = sorted({row['code'] for row in results.values()})
  return '\n'.join([*lines, f'\ncode {", ".join(codes)}'])


def _campaigns_row(world: World, rows: Sequence[dict], alpha: float) -> str:
  same = sum(row['reason'].startswith(arms.SAME_RECIPE) for row in rows)
  untested = sum(row['reason'].startswith(arms.NOT_TESTED) for row in rows)
  compared = [row for row in rows if row['result'] is not None]
  true = [row for row in compared if row['truths'][0] >= max(row['truths'][1], 0) + BETTER]

  def supported(some: Sequence[dict]) -> int:
    return sum(row['result']['p_value'] <= alpha for row in some)

  return (
    f'| {world.name} | {len(rows)} | {same} | {len(compared)} | '
    f'{share(supported(compared), len(rows))} | {len(true) / len(rows):.3f} | '
    f'{supported(true)} of {len(true)} | {untested} |'
  )


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('mode', choices=['runs', 'campaigns', 'table'])
  parser.add_argument('--worlds', default=','.join(WORLDS))
  parser.add_argument('--campaigns', type=int, default=0)
  arguments = parser.parse_args()
  if arguments.mode == 'runs':
    play_runs(arguments.campaigns or 4000)
  elif arguments.mode == 'campaigns':
    play_campaigns(arguments.worlds.split(','), arguments.campaigns or 400)
  print(table(load()))


if __name__ == '__main__':
  main()
