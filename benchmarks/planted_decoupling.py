"""Does the loop notice, on real training, that its dev set has begun to lie?

It runs campaigns with a planted flaw of dev, and the same campaigns without it.

  .venv/bin/python benchmarks/planted_decoupling.py run --kind=planted --seeds=0-9
      what is missing of ten campaigns, about ten minutes each on two idle cores
  .venv/bin/python benchmarks/planted_decoupling.py run --kind=null --seeds=0-9
  .venv/bin/python benchmarks/planted_decoupling.py table
      Markdown, from what has been run
  .venv/bin/python benchmarks/planted_decoupling.py shortcuts
      one training for each family whose data has the flaw: is it a shortcut?
  .venv/bin/python benchmarks/planted_decoupling.py predict --kind=planted
      the same campaigns simulated: in how many is the plant to be found?

Each campaign is configs/campaigns/decoupling_study.gin. The plant: dev's questions of one family
still have the answer in them, the external set's have not. From some round on every family has an
axis that says how much of its training data has that flaw. Binding it for the planted family
teaches the model to copy, which raises dev and not external; for any other family it only costs.
Family, name and position of the axis, its sign (a share of items that show the answer, or that keep
it back) and the round are drawn from a seed of this script alone. Agents see neither it nor dev_set
(meta_agent.anonymize). In a null campaign the axes are there and dev has no flaw.

Results accumulate in benchmarks/results/planted_decoupling.json, keyed by kind and seed, each with
the digests of its constitution and code. Revised is compared with control with the campaign as the
unit: exactly, over all signs of the campaigns' differences, in external items that were right. The
committed campaigns ran under an earlier version, whose arms were explorers and not two recipes.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

import aevo_jax.campaign.setup.settings  # noqa: F401  registers what gin may bind
from aevo_jax import layout
from aevo_jax.campaign.decisions import arms
from aevo_jax.campaign.decisions.state import CampaignState, fold
from aevo_jax.campaign.setup import setup
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.ledger.append import read
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.drift.trust import ALARMS
from aevo_jax.meta_agent.encoding import Encoder
from aevo_jax.simulation.campaign import Simulator, simulate
from aevo_jax.simulation.injected_shift import LogOdds
from aevo_jax.simulation.scenario import Scenario
from aevo_jax.simulation.settings import Settings
from aevo_jax.substrate import manifest
from aevo_jax.tasks.mixture import FAMILIES

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from planted_table import central, detected, false_alarms, table

STUDY = 'configs/campaigns/decoupling_study.gin'
RESULTS = pathlib.Path(__file__).parent / 'results' / 'planted_decoupling.json'
SHORTCUTS = RESULTS.with_name('planted_shortcuts.json')
PLANT_SEED = 5_772_156  # of the plants only
# Where training on the flaw is a shortcut at all (docs/results.md has the trial runs): copying an
# answer is not learnt within a trial in text_encryption, and in bit_manipulation no recipe moves
# the external score, so that dev has nothing to lose touch with.
PLANTED = (
  'numeral_conversion',
  'unit_conversion',
  'gravitational_constant',
  'equation_transformation',
)
SIGNS = ('answer_shown', 'answer_withheld')


class Plant(NamedTuple):
  """What dev's flaw is and how it can be bound.

  axes: axis name -> selector, one for each family.
  """

  family: str
  sign: str
  onset: int
  axes: dict[str, str]

  @classmethod
  def draw(cls, seed: int) -> 'Plant':
    rng = np.random.default_rng([PLANT_SEED, seed])
    family = str(rng.choice(PLANTED))
    onset = int(rng.integers(3, 5))
    signs = {f: str(rng.choice(SIGNS)) for f in FAMILIES}
    positions = rng.permutation(len(FAMILIES))
    axes = {}
    for position, f in zip(positions, FAMILIES, strict=True):
      axes[f'data_{position}'] = f'{signs[f]}.{f}'
    return cls(family, signs[family], onset, dict(sorted(axes.items())))

  def gin(self, kind: str) -> str:
    """Bindings over the study's."""
    loading.load(
      [str(layout.root_file('constitution.gin')), STUDY], [], search_paths=layout.search_paths()
    )
    axes = {
      name: axis
      for name, axis in constitution_lib.from_gin().search_space.axes.items()
      if not name.startswith('data_')
    }
    axes |= {
      name: {selector: {'kind': 'float', 'low': 0.0, 'high': 1.0}}
      for name, selector in self.axes.items()
    }
    flaw = {self.family: 1.0} if kind == 'planted' else {}
    return (
      f'dev_set.answer_shown = {flaw!r}\nsearch_space.axes = {axes!r}\n'
      f'search_space.from_round = {dict.fromkeys(self.axes, self.onset)!r}\n'
    )


def outcome(run: pathlib.Path, plant: Plant, kind: str) -> dict[str, Any]:
  """What a finished campaign showed."""
  records = read(run / 'ledger.jsonl', strict=False)
  state = fold(records)
  alarms = [
    {
      'round': k,
      'stream': s,
      **{
        f: v[f]
        for f in (
          'verdict',
          'test',
          'p_value',
          'e_value',
          'threshold',
          'n',
          'slope',
          'reference_slope',
        )
      },
    }
    for k, spoken in sorted(state.verdicts.items())
    for s, v in spoken.items()
    if v['verdict'] in ALARMS
  ]
  policies = {k: policy_lib.from_json(p['policy']) for k, p in sorted(state.policies.items())}
  turned = {
    f: k for k, p in sorted(policies.items(), reverse=True) for f in p.objectives
  }  # family -> first round with another objective
  strata = [
    {arm: [_external(run, t) for t in trials] for arm, trials in found.items()}
    for k in sorted(state.attributions)
    if (found := arms.compared(state, k))
  ]
  return {
    'kind': kind,
    'plant': plant._asdict(),
    'alarms': alarms,
    'turned': turned,
    'strata': strata,
    'attributions': state.attributions,
    'anchors': {k: _anchor(state, k, plant.family) for k in sorted(state.verdicts)},
    'promoted': policies[max(policies)].standing,
    'constitution': state.started['constitution'],
    'code': manifest.read(run / setup.SUBSTRATE).code_tree.digest,
    'trials': len(state.trials),
    'tokens': sum(t.claim.get('tokens', 0) for t in state.trials.values()),
    'seconds': round(records[-1].time - records[0].time),
    'finished': time.strftime('%Y-%m-%d %H:%M', time.gmtime()),
  }


def _external(run: pathlib.Path, trial: str) -> int:
  return json.loads((run / 'scores' / f'{trial}.external.json').read_text())['summary']['overall'][
    'correct'
  ]


def _anchor(state: CampaignState, round_: int, family: str) -> list[float | None]:
  """Dev accuracy of the round's trials in a family: anchor, then the best."""
  scores = [
    t.dev['by_family'][family]['accuracy'] for t in state.of_round(round_) if t.dev is not None
  ]
  return [scores[0], max(scores)] if scores else [None, None]


def run_campaign(kind: str, seed: int, arguments: argparse.Namespace) -> None:
  plant = Plant.draw(seed)
  run = arguments.runs / f'{kind}{seed}'
  gin = arguments.runs / f'{kind}{seed}.gin'
  arguments.runs.mkdir(parents=True, exist_ok=True)
  gin.write_text(plant.gin(kind))
  start = [
    f'--run={run}',
    f'--gin_file={STUDY}',
    f'--gin_file={gin}',
    f'--gin.campaign.seed={seed}',
    f'--gin.campaign.parallel={arguments.parallel}',
  ]
  subprocess.run(
    [
      sys.executable,
      '-m',
      'aevo_jax.cli',
      'campaign',
      *([f'--resume={run}'] if run.exists() else start),
    ],
    check=True,
  )
  results = load()
  results[f'{kind}{seed}'] = outcome(run, plant, kind) | {'seed': seed}
  RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')
  if not arguments.keep:
    shutil.rmtree(run / 'trials')


def measure_shortcuts(runs: pathlib.Path) -> None:
  """Trains the starting recipe, and the same with one family's data flawed throughout.

  Scores them on items with and without their answer.
  """

  def aevo(*command: str) -> str:
    return subprocess.run(
      [sys.executable, '-m', 'aevo_jax.cli', *command], check=True, capture_output=True, text=True
    ).stdout

  def accuracies(model: pathlib.Path, shown: float) -> dict[str, float]:
    flaw = f'dev_set.answer_shown = {dict.fromkeys(FAMILIES, shown)!r}'
    scored = json.loads(
      aevo(
        'evaluate',
        str(model),
        '--json',
        "--gin_bindings=dev_set.rare_share = {'bit_manipulation': 0.28}",
        f'--gin_bindings={flaw}',
      )
    )
    return {family: p['accuracy'] for family, p in scored['by_family'].items()}

  trained = json.loads(SHORTCUTS.read_text()) if SHORTCUTS.exists() else {}
  for name in ('starting', *FAMILIES):
    if name not in trained:
      out = runs / f'shortcut_{name}'
      aevo(
        'train',
        '--tokens=81920',
        '--checkpoint_every=0',
        f'--out={out}',
        *([f'--gin.answer_shown.{name}=1.0'] if name in FAMILIES else []),
      )
      trained[name] = {'shown': accuracies(out, 1.0), 'plain': accuracies(out, 0.0)}
      SHORTCUTS.write_text(json.dumps(trained, indent=1, sort_keys=True) + '\n')


def shortcuts() -> str:
  """Markdown of what `measure_shortcuts` found."""
  trained = json.loads(SHORTCUTS.read_text())
  lines = [
    '| family | answer shown: starting | flawed data | not shown: starting | flawed data |',
    '|---|---|---|---|---|',
  ]
  for family in FAMILIES:
    lines.append(
      f'| {family} | '
      + ' | '.join(
        f'{trained[name][side][family]:.2f}'
        for side in ('shown', 'plain')
        for name in ('starting', family)
      )
      + ' |'
    )
  return '\n'.join(lines)


class FlawedAxis(NamedTuple):
  """An axis of flawed data. dev, external: [F] log-odds that a share of 1 adds."""

  parameter: int
  withheld: bool
  dev: np.ndarray
  external: np.ndarray


class FlawedData:
  """A shift as `injected_shift.InjectedShift` is one, by flawed data.

  They do to every family what they did in the trial runs of `shortcuts`, in proportion to their
  share in log-odds. kind: of campaign.
  """

  def __init__(self, scenario: Scenario, plant: Plant, kind: str):
    self._families = scenario.families
    self._trained = json.loads(SHORTCUTS.read_text())
    plain = ['plain'] * len(self._families)
    dev_sides = list(plain)
    if kind == 'planted':
      dev_sides[self._families.index(plant.family)] = 'shown'
    base_dev = self._odds('starting', dev_sides)
    base_external = self._odds('starting', plain)
    self._base = base_dev - base_external  # [F] what the flaw alone does to dev
    selectors = [p.selector for p in scenario.encoder.parameters]
    self._axes = []
    for selector in plant.axes.values():
      trial = selector.rpartition('.')[2]
      self._axes.append(
        FlawedAxis(
          selectors.index(selector),
          selector.startswith('answer_withheld'),
          self._odds(trial, dev_sides) - base_dev,
          self._odds(trial, plain) - base_external,
        )
      )

  def _odds(self, trial: str, sides: Sequence[str]) -> np.ndarray:
    """[F] of a trial run's accuracies, of each family on its side."""
    accuracies = [
      self._trained[trial][side][family] for family, side in zip(self._families, sides, strict=True)
    ]
    return special.logit(np.clip(accuracies, 0.005, 0.995))

  def log_odds(
    self, encoder: Encoder, codes: np.ndarray, families: int, round_: int | np.ndarray
  ) -> LogOdds:
    """What the flawed data add; the gate opens the axes in their round."""
    del encoder, families, round_
    dev = 0
    external = 0
    for axis in self._axes:
      code = codes[:, [axis.parameter]]
      share = 1 - code if axis.withheld else code
      dev = dev + share * axis.dev
      external = external + share * axis.external
    return LogOdds(self._base + dev, external)


def scenario(plant: Plant, kind: str, seed: int) -> Scenario:
  """The study's constitution with a plant, on a surface fitted to real trials."""
  with tempfile.NamedTemporaryFile('w', suffix='.gin') as file:
    file.write(plant.gin(kind))
    file.flush()
    loading.load(
      [str(layout.root_file('constitution.gin')), STUDY, file.name],
      [],
      search_paths=layout.search_paths(),
    )
  return Scenario(
    constitution_lib.from_gin(),
    Settings(surface='fitted', trials=str(RESULTS.with_name('trials.json')), seed=seed),
    (layout.root_file('substrate') / 'recipe.gin').read_text(),
    tuple(FAMILIES),
  )


def chances(kind: str, seed: int, campaigns: int) -> tuple[float, float]:
  """Shares of simulated campaigns of a seed's plant with a detection, and with a false alarm.

  `detected` and `false_alarms` say which they are.
  """
  plant = Plant.draw(seed)
  world = scenario(plant, kind, seed)
  hits = wrong = 0
  for index in range(campaigns):
    simulator = Simulator(world, index, FlawedData(world, plant, kind))
    policies = simulate(simulator, world, 'statistical', index)
    found = {
      'kind': kind,
      'plant': plant._asdict(),
      'alarms': [dataclasses.asdict(a) for a in simulator.detector.alarms],
      'turned': {f: p.round for p in reversed(policies) for f in p.objectives},
    }
    hits += detected(found)
    wrong += bool(false_alarms(found))
  return hits / campaigns, wrong / campaigns


def predict(kind: str, seeds: Sequence[int], campaigns: int) -> str:
  """Markdown: what the simulator expects of these seeds' campaigns.

  It has the central 95% of their number.
  """
  counted = 'detected' if kind == 'planted' else 'false alarm'
  lines = [
    f'| seed | family | onset | {counted}, of {campaigns} simulated |',
    '|---|---|---|---|',
  ]
  probabilities = []
  for seed in seeds:
    plant = Plant.draw(seed)
    hits, wrong = chances(kind, seed, campaigns)
    probabilities.append(hits if kind == 'planted' else wrong)
    lines.append(f'| {seed} | {plant.family} | {plant.onset} | {probabilities[-1]:.2f} |')
  low, high = central(probabilities)
  expected = sum(probabilities)
  return '\n'.join(
    [*lines, f'\nexpected {expected:.1f} of {len(probabilities)}, 95% between {low} and {high}']
  )


def load() -> dict[str, dict]:
  return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('mode', choices=['run', 'table', 'shortcuts', 'predict'])
  parser.add_argument('--kind', choices=['planted', 'null'], default='planted')
  parser.add_argument('--seeds', default='0-9', help='one seed, or the first and the last')
  parser.add_argument('--campaigns', type=int, default=40, help='of `predict`, for each seed')
  parser.add_argument(
    '--runs', type=pathlib.Path, default=pathlib.Path('runs') / 'planted_decoupling'
  )
  parser.add_argument(
    '--parallel',
    type=int,
    default=0,
    help='processes of a campaign that compute at once; 0 is one per core',
  )
  parser.add_argument('--keep', action='store_true', help='keep trial directories of finished runs')
  arguments = parser.parse_args()
  first, _, last = arguments.seeds.partition('-')
  seeds = range(int(first), int(last or first) + 1)
  if arguments.mode == 'run':
    for seed in seeds:
      if f'{arguments.kind}{seed}' not in load():
        run_campaign(arguments.kind, seed, arguments)
  if arguments.mode == 'shortcuts':
    measure_shortcuts(arguments.runs)
    print(shortcuts())
  elif arguments.mode == 'predict':
    print(predict(arguments.kind, seeds, arguments.campaigns))
  else:
    print(table(load()))


if __name__ == '__main__':
  main()
