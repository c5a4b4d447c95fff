"""Does the loop notice, on real training, that its dev set has begun to lie? Campaigns with a
planted flaw of dev, and the same campaigns without it.

  .venv/bin/python benchmarks/planted_decoupling.py run --kind=planted --seeds=0-9      what is
  missing of ten campaigns, about ten minutes each on two idle cores .venv/bin/python
  benchmarks/planted_decoupling.py run --kind=null --seeds=0-9 .venv/bin/python
  benchmarks/planted_decoupling.py table                               Markdown, from what has been
  run .venv/bin/python benchmarks/planted_decoupling.py shortcuts                           one
  training for each family whose data has the flaw: is it a shortcut? .venv/bin/python
    benchmarks/planted_decoupling.py predict --kind=planted              the same campaigns
    simulated: in how many is the plant to be found?

Each campaign is configs/campaigns/decoupling_study.gin. The plant: dev's questions of one family
still have the answer in them, the external set's have not; and from some round on every family has
an axis that says how much of its training data has that flaw. Binding it for the planted family
teaches the model to copy, which raises dev and not external; for any other family it only costs.
Family, name and place of the axis, its sign (a share of items that show the answer, or that keep it
back) and the round are drawn from a seed of this script's own; agents see neither it nor dev_set
(meta_agent.anonymize). In a null campaign the axes are there and dev has no flaw.

Results accumulate in benchmarks/results/planted_decoupling.json, keyed by kind and seed, each with
the digests of its constitution and code. The pooled test of revised against control arms is exact
and stratified by campaign and round, on numbers of external items that were right, from the
revealed scores.
"""

import argparse
import dataclasses
import functools
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

import aevo_jax.campaign.settings  # noqa: F401  registers campaign.*, which the gin file binds
from aevo_jax import layout
from aevo_jax.campaign import decisions, setup
from aevo_jax.campaign.state import CampaignState, fold
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.ledger.append import read
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.drift.trust import ALARMS
from aevo_jax.simulation.campaign import Play, play_out
from aevo_jax.simulation.scenario import Scenario
from aevo_jax.simulation.settings import Settings
from aevo_jax.stats.intervals import wilson
from aevo_jax.stats.permutation import Stratum, compare
from aevo_jax.substrate import manifest
from aevo_jax.tasks.mixture import FAMILIES

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
PILOTS = 100  # seeds from here on were run while the study was set up, and count for nothing


class Plant(NamedTuple):
  """What dev's flaw is and how it can be bound. axes: axis name -> selector, one for each family."""

  family: str
  sign: str
  onset: int
  axes: dict[str, str]

  @classmethod
  def draw(cls, seed: int) -> 'Plant':
    rng = np.random.default_rng([PLANT_SEED, seed])
    family, onset = str(rng.choice(PLANTED)), int(rng.integers(3, 5))
    signs = {f: str(rng.choice(SIGNS)) for f in FAMILIES}
    axes = {
      f'data_{place}': f'{signs[f]}.{f}'
      for place, f in zip(rng.permutation(len(FAMILIES)), FAMILIES)
    }
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
    if (found := decisions.arms(state, k))
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
  """Trains the starting recipe, and the same with one family's data flawed throughout, and scores
  them on items with and without their answer.
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


class FlawedPlay(Play):
  """A simulated campaign of a plant: a surface fitted to real trials, on which flawed data do to
  every family what they did in the trial runs of `shortcuts`, in proportion to their share in
  log-odds. kind: of campaign."""

  def __init__(self, scenario: Scenario, index: int, plant: Plant, kind: str):
    super().__init__(scenario, index)
    trained, families = json.loads(SHORTCUTS.read_text()), scenario.families
    dev_sides = ['shown' if kind == 'planted' and f == plant.family else 'plain' for f in families]
    odds = lambda name, sides: special.logit(
      np.clip([trained[name][side][f] for f, side in zip(families, sides)], 0.005, 0.995)
    )
    plain = ['plain'] * len(families)
    self._base = odds('starting', dev_sides) - odds(
      'starting', plain
    )  # [F] what the flaw alone does to dev
    selectors = [p.selector for p in scenario.encoder.parameters]
    self._axes = [
      (
        selectors.index(s),
        s.startswith('answer_withheld'),
        odds(f, dev_sides) - odds('starting', dev_sides),
        odds(f, plain) - odds('starting', plain),
      )
      for s in plant.axes.values()
      for f in [s.rpartition('.')[2]]
    ]

  def _shifts(self, codes: np.ndarray, round_: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    del round_  # the gate opens the axes in their round
    shares = [1 - codes[:, [k]] if withheld else codes[:, [k]] for k, withheld, *_ in self._axes]
    return self._base + sum(s * dev for s, (*_, dev, _) in zip(shares, self._axes)), sum(
      s * external for s, (*_, external) in zip(shares, self._axes)
    )


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


def simulate(kind: str, seed: int, campaigns: int) -> tuple[float, float]:
  """Shares of simulated campaigns of a seed's plant in which it was detected, as `detected` counts,
  and in which there was a false alarm.
  """
  plant = Plant.draw(seed)
  world = scenario(plant, kind, seed)
  hits = wrong = 0
  for index in range(campaigns):
    play = FlawedPlay(world, index, plant, kind)
    policies = play_out(play, world, 'statistical', index)
    found = {
      'kind': kind,
      'plant': plant._asdict(),
      'alarms': [dataclasses.asdict(a) for a in play.detector.alarms],
      'turned': {f: p.round for p in reversed(policies) for f in p.objectives},
    }
    hits += detected(found)
    wrong += bool(false_alarms(found))
  return hits / campaigns, wrong / campaigns


def predict(kind: str, seeds: Sequence[int], campaigns: int) -> str:
  """Markdown: what the simulator expects of these seeds' campaigns, with the central 95% of their
  number.
  """
  lines, chances = (
    [
      (
        f'| seed | family | onset | {"detected" if kind == "planted" else "false alarm"}, '
        f'of {campaigns} simulated |'
      ),
      '|---|---|---|---|',
    ],
    [],
  )
  for seed in seeds:
    plant, found = Plant.draw(seed), simulate(kind, seed, campaigns)
    chances.append(found[0] if kind == 'planted' else found[1])
    lines.append(f'| {seed} | {plant.family} | {plant.onset} | {chances[-1]:.2f} |')
  low, high = central(chances)
  return '\n'.join(
    [*lines, f'\nexpected {sum(chances):.1f} of {len(chances)}, 95% between {low} and {high}']
  )


def central(chances: Sequence[float]) -> tuple[int, int]:
  """The central 95% of how many independent events of these chances happen."""
  number = functools.reduce(np.convolve, ([1 - p, p] for p in chances), np.ones(1)).cumsum()
  return int(np.searchsorted(number, 0.025)), int(np.searchsorted(number, 0.975))


def load() -> dict[str, dict]:
  return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def detected(result: dict) -> bool:
  """Once the flaw could be bound, its family or dev as a whole was called reversed or decoupled (as
  `aevo simulate` counts), and the family's objective changed.
  """
  family, onset = result['plant']['family'], result['plant']['onset']
  return (
    any(a['stream'] in (family, 'overall') and a['round'] >= onset for a in result['alarms'])
    and result['turned'].get(family, 0) > onset
  )


def false_alarms(result: dict) -> list[dict]:
  """Alarms that are wrong: any in a null campaign; in a planted one those before the onset, and
  those of other families.
  """
  if result['kind'] == 'null':
    return result['alarms']
  return [
    a
    for a in result['alarms']
    if a['round'] < result['plant']['onset']
    or a['stream'] not in (result['plant']['family'], 'overall')
  ]


def table(results: dict[str, dict]) -> str:
  lines = [
    (
      '| campaign | family | sign | onset | alarms (round, stream, verdict) | turned for '
      'round | revised - control (external) | p |'
    ),
    '|---|---|---|---|---|---|---|---|',
  ]
  for name, r in sorted(results.items(), key=lambda item: (item[1]['kind'], item[1]['seed'])):
    plant, last = (
      r['plant'],
      r['attributions'][max(r['attributions'], key=int)] if r['attributions'] else None,
    )
    alarms = ', '.join(f'{a["round"]} {a["stream"]} {a["verdict"]}' for a in r['alarms']) or 'none'
    shown = (
      (plant['family'], plant['sign'], plant['onset'])
      if r['kind'] == 'planted'
      else ('-', '-', plant['onset'])
    )
    lines.append(
      (
        f'| {name} | {" | ".join(map(str, shown))} | {alarms} | '
        f'{r["turned"].get(plant["family"], "-")} | '
      )
      + (f'{last["difference"]:+.3f} | {last["p_value"]:.3f} |' if last else '- | - |')
    )
  for kind in ('planted', 'null'):
    found = [r for r in results.values() if r['kind'] == kind and r['seed'] < PILOTS]
    if not found:
      continue
    alarmed = sum(bool(false_alarms(r)) for r in found)
    low, high = wilson(alarmed, len(found))
    lines.append(
      f'\n{kind}: false alarms in {alarmed} of {len(found)} campaigns [{low:.2f}, {high:.2f}]'
    )
    if kind == 'planted':
      hits = sum(map(detected, found))
      low, high = wilson(hits, len(found))
      lines.append(
        f'planted: detected, and the objective changed, in {hits} of {len(found)} '
        f'[{low:.2f}, {high:.2f}]'
      )
      pooled = compare(
        [Stratum(s['revised'], s['control']) for r in found if detected(r) for s in r['strata']]
      )
      if pooled:
        lines.append(
          'revised against control, pooled over campaigns and rounds: '
          f'{pooled.difference:+.1f} of the external items, exact p = {pooled.p_value:.4f}'
        )
    lines.append(
      f'{kind}: {sum(r["seconds"] for r in found) / 3600:.1f} h on the clock, '
      f'{sum(r["tokens"] for r in found) / 1e6:.0f} million tokens, '
      f'{sum(r["trials"] for r in found)} trials'
    )
  return '\n'.join(lines)


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
  print(
    shortcuts()
    if arguments.mode == 'shortcuts'
    else predict(arguments.kind, seeds, arguments.campaigns)
    if arguments.mode == 'predict'
    else table(load())
  )


if __name__ == '__main__':
  main()
