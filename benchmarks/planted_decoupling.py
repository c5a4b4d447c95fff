"""Does the loop notice, on real training, that its dev set has begun to lie? Campaigns with a planted flaw of dev, and the same campaigns without it.

  .venv/bin/python benchmarks/planted_decoupling.py run --kind=planted --seeds=0-9      what is missing of ten campaigns, about ten minutes each on two idle cores
  .venv/bin/python benchmarks/planted_decoupling.py run --kind=null --seeds=0-9
  .venv/bin/python benchmarks/planted_decoupling.py table                               Markdown, from what has been run
  .venv/bin/python benchmarks/planted_decoupling.py shortcuts                           one training for each family whose data has the flaw: is it a shortcut?

Each campaign is configs/campaigns/decoupling_study.gin. The plant: dev's questions of one family still have the answer in them, the external set's have not; and from some round on
every family has an axis that says how much of its training data has that flaw. Binding it for the planted family teaches the model to copy, which raises dev and not external; for
any other family it only costs. Family, name and place of the axis, its sign (a share of items that show the answer, or that keep it back) and the round are
drawn from a seed of this script's own; agents see neither it nor dev_set (meta_agent.roles). In a null campaign the axes are there and dev has no flaw.

Results accumulate in benchmarks/results/planted_decoupling.json, keyed by kind and seed, each with its constitution, code and commit. The pooled test of revised against control arms
is exact and stratified by campaign and round, on numbers of external items that were right, from the revealed scores.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np

import aevo_jax.campaign.settings  # noqa: F401  registers campaign.*, which the gin file binds
from aevo_jax import layout
from aevo_jax.campaign import decisions, setup
from aevo_jax.campaign.state import CampaignState, fold
from aevo_jax.config import loading
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.evaluation.intervals import wilson
from aevo_jax.evaluation.permutation import Stratum, compare
from aevo_jax.ledger.append import read
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.trust import ALARMS
from aevo_jax.substrate import manifest
from aevo_jax.tasks.mixture import FAMILIES

STUDY = 'configs/campaigns/decoupling_study.gin'
RESULTS = pathlib.Path(__file__).parent / 'results' / 'planted_decoupling.json'
PLANT_SEED = 5_772_156  # of the plants only
# Where training on the flaw is a shortcut at all (docs/results.md has the trial runs): copying an answer is not learnt within a trial in text_encryption, and in
# bit_manipulation no recipe moves the external score, so that dev has nothing to lose touch with.
PLANTED = ('numeral_conversion', 'unit_conversion', 'gravitational_constant', 'equation_transformation')
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
    axes = {f'data_{place}': f'{signs[f]}.{f}' for place, f in zip(rng.permutation(len(FAMILIES)), FAMILIES)}
    return cls(family, signs[family], onset, dict(sorted(axes.items())))

  def gin(self, kind: str) -> str:
    """Bindings over the study's."""
    loading.load([str(layout.root_file('constitution.gin')), STUDY], [], search_paths=layout.search_paths())
    axes = {name: axis for name, axis in constitution_lib.from_gin().search_space.axes.items() if not name.startswith('data_')}
    axes |= {name: {selector: {'kind': 'float', 'low': 0.0, 'high': 1.0}} for name, selector in self.axes.items()}
    flaw = {self.family: 1.0} if kind == 'planted' else {}
    return (f"include '{STUDY}'\ndev_set.answer_shown = {flaw!r}\nsearch_space.axes = {axes!r}\n"
            f'search_space.from_round = {dict.fromkeys(self.axes, self.onset)!r}\n')


def outcome(run: pathlib.Path, plant: Plant, kind: str) -> dict[str, Any]:
  """What a finished campaign showed."""
  records = read(run / 'ledger.jsonl', strict=False)
  state = fold(records)
  alarms = [{'round': k, 'stream': s, **{f: v[f] for f in ('verdict', 'test', 'p_value', 'e_value', 'threshold', 'n', 'slope', 'reference_slope')}}
            for k, spoken in sorted(state.verdicts.items()) for s, v in spoken.items() if v['verdict'] in ALARMS]
  policies = {k: policy_lib.from_json(p['policy']) for k, p in sorted(state.policies.items())}
  turned = {f: k for k, p in sorted(policies.items(), reverse=True) for f in p.objectives}  # family -> first round with another objective
  strata = [{arm: [_external(run, t) for t in trials] for arm, trials in found.items()} for k in sorted(state.attributions)
            if (found := decisions.arms(state, k))]
  return {'kind': kind, 'plant': plant._asdict(), 'alarms': alarms, 'turned': turned, 'strata': strata, 'attributions': state.attributions,
          'anchors': {k: _anchor(state, k, plant.family) for k in sorted(state.verdicts)}, 'promoted': policies[max(policies)].standing,
          'constitution': state.started['constitution'], 'code': manifest.read(run / setup.SUBSTRATE).code_tree.digest, 'trials': len(state.trials),
          'tokens': sum(t.claim.get('tokens', 0) for t in state.trials.values()), 'seconds': round(records[-1].time - records[0].time),
          'finished': time.strftime('%Y-%m-%d %H:%M', time.gmtime())}


def _external(run: pathlib.Path, trial: str) -> int:
  return json.loads((run / 'scores' / f'{trial}.external.json').read_text())['summary']['overall']['correct']


def _anchor(state: CampaignState, round_: int, family: str) -> list[float | None]:
  """Dev accuracy of the round's trials in a family: anchor, then the best."""
  scores = [t.dev['by_family'][family]['accuracy'] for t in state.of_round(round_) if t.dev is not None]
  return [scores[0], max(scores)] if scores else [None, None]


def run_campaign(kind: str, seed: int, arguments: argparse.Namespace) -> None:
  plant = Plant.draw(seed)
  run = arguments.runs / f'{kind}{seed}'
  gin = arguments.runs / f'{kind}{seed}.gin'
  arguments.runs.mkdir(parents=True, exist_ok=True)
  gin.write_text(plant.gin(kind))
  start = [f'--run={run}', f'--gin_file={gin}', f'--gin.campaign.seed={seed}', f'--gin.campaign.parallel={arguments.parallel}']
  subprocess.run([sys.executable, '-m', 'aevo_jax.cli', 'campaign', *([f'--resume={run}'] if run.exists() else start)], check=True)
  results = load()
  results[f'{kind}{seed}'] = outcome(run, plant, kind) | {'seed': seed}
  RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')
  if not arguments.keep:
    shutil.rmtree(run / 'trials')


def shortcuts(runs: pathlib.Path) -> str:
  """Markdown: accuracy of the starting recipe and of the same with one family's data flawed throughout, on that family's items with and without their answer."""
  def aevo(*command: str) -> str:
    return subprocess.run([sys.executable, '-m', 'aevo_jax.cli', *command], check=True, capture_output=True, text=True).stdout

  def accuracies(model: pathlib.Path, shown: float) -> dict[str, float]:
    flaw = f'dev_set.answer_shown = {dict.fromkeys(FAMILIES, shown)!r}'
    scored = json.loads(aevo('evaluate', str(model), '--json', "--gin_bindings=dev_set.rare_share = {'bit_manipulation': 0.28}", f'--gin_bindings={flaw}'))
    return {family: p['accuracy'] for family, p in scored['by_family'].items()}

  trained = {}
  for name in ('starting', *FAMILIES):
    out = runs / f'shortcut_{name}'
    aevo('train', '--tokens=81920', '--checkpoint_every=0', f'--out={out}', *([f'--gin.answer_shown.{name}=1.0'] if name in FAMILIES else []))
    trained[name] = accuracies(out, 1.0), accuracies(out, 0.0)
  lines = ['| family | answer shown: starting | flawed data | not shown: starting | flawed data |', '|---|---|---|---|---|']
  for family in FAMILIES:
    lines.append(f'| {family} | ' + ' | '.join(f'{trained[name][side][family]:.2f}' for side in (0, 1) for name in ('starting', family)) + ' |')
  return '\n'.join(lines)


def load() -> dict[str, dict]:
  return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def detected(result: dict) -> bool:
  """Once the flaw could be bound, its family or dev as a whole was called reversed or decoupled (as `aevo simulate` counts), and the family's objective changed."""
  family, onset = result['plant']['family'], result['plant']['onset']
  return any(a['stream'] in (family, 'overall') and a['round'] >= onset for a in result['alarms']) and result['turned'].get(family, 0) > onset


def false_alarms(result: dict) -> list[dict]:
  """Alarms that are wrong: any in a null campaign; in a planted one those before the onset, and those of other families."""
  if result['kind'] == 'null':
    return result['alarms']
  return [a for a in result['alarms'] if a['round'] < result['plant']['onset'] or a['stream'] not in (result['plant']['family'], 'overall')]


def table(results: dict[str, dict]) -> str:
  lines = ['| campaign | family | sign | onset | alarms (round, stream, verdict) | turned for round | revised - control (external) | p |', '|---|---|---|---|---|---|---|---|']
  for name, r in sorted(results.items(), key=lambda item: (item[1]['kind'], item[1]['seed'])):
    plant, last = r['plant'], r['attributions'][max(r['attributions'], key=int)] if r['attributions'] else None
    alarms = ', '.join(f'{a["round"]} {a["stream"]} {a["verdict"]}' for a in r['alarms']) or 'none'
    shown = (plant['family'], plant['sign'], plant['onset']) if r['kind'] == 'planted' else ('-', '-', plant['onset'])
    lines.append(f'| {name} | {" | ".join(map(str, shown))} | {alarms} | {r["turned"].get(plant["family"], "-")} | '
                 + (f'{last["difference"]:+.3f} | {last["p_value"]:.3f} |' if last else '- | - |'))
  for kind in ('planted', 'null'):
    found = [r for r in results.values() if r['kind'] == kind and r['seed'] < PILOTS]
    if not found:
      continue
    alarmed = sum(bool(false_alarms(r)) for r in found)
    low, high = wilson(alarmed, len(found))
    lines.append(f'\n{kind}: false alarms in {alarmed} of {len(found)} campaigns [{low:.2f}, {high:.2f}]')
    if kind == 'planted':
      hits = sum(map(detected, found))
      low, high = wilson(hits, len(found))
      lines.append(f'planted: detected, and the objective changed, in {hits} of {len(found)} [{low:.2f}, {high:.2f}]')
      pooled = compare([Stratum(s['revised'], s['control']) for r in found if detected(r) for s in r['strata']])
      if pooled:
        lines.append(f'revised against control, pooled over campaigns and rounds: {pooled.difference:+.1f} of the external items, exact p = {pooled.p_value:.4f}')
    lines.append(f'{kind}: {sum(r["seconds"] for r in found) / 3600:.1f} h on the clock, {sum(r["tokens"] for r in found) / 1e6:.0f} million tokens, {sum(r["trials"] for r in found)} trials')
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('mode', choices=['run', 'table', 'shortcuts'])
  parser.add_argument('--kind', choices=['planted', 'null'], default='planted')
  parser.add_argument('--seeds', default='0-9', help='one seed, or the first and the last')
  parser.add_argument('--runs', type=pathlib.Path, default=pathlib.Path('runs') / 'planted_decoupling')
  parser.add_argument('--parallel', type=int, default=0, help='processes of a campaign that compute at once; 0 is one per core')
  parser.add_argument('--keep', action='store_true', help='keep trial directories of finished runs')
  arguments = parser.parse_args()
  if arguments.mode == 'run':
    first, _, last = arguments.seeds.partition('-')
    for seed in range(int(first), int(last or first) + 1):
      if f'{arguments.kind}{seed}' not in load():
        run_campaign(arguments.kind, seed, arguments)
  print(shortcuts(arguments.runs) if arguments.mode == 'shortcuts' else table(load()))


if __name__ == '__main__':
  main()
