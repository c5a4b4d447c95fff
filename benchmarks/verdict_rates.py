"""How often the verdicts alarm: power where dev has a flaw, false alarms where it has none.

  .venv/bin/python benchmarks/verdict_rates.py              the rows that are not kept for this code
  .venv/bin/python benchmarks/verdict_rates.py --only=TEXT  those whose name has the text
  .venv/bin/python benchmarks/verdict_rates.py --table      what is kept, as Markdown

A row is one world (benchmarks/verdict_worlds.py): whole campaigns, judged round after round by the
functions that judge a real one, coarse as the arbiter tells it, under constitution.gin's rules.
Rows go to benchmarks/results/verdict_rates.jsonl as they are made, keyed by the digest of the code
that decides them. Surfaces are those of `aevo simulate --agents=none`. `--run=DIR` shuffles the
trials of a finished campaign in time.
"""

import argparse
import collections
import dataclasses
import datetime
import hashlib
import json
import pathlib
import time
from collections.abc import Iterator, Sequence

import numpy as np
import verdict_worlds
from verdict_worlds import PLANTED, Campaign, World

from aevo_jax import layout
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.constitution import Constitution
from aevo_jax.evaluation import scoring
from aevo_jax.meta_agent.drift.reversal import ALARMS
from aevo_jax.simulation import designs
from aevo_jax.simulation.detector import Alarm, Detector
from aevo_jax.simulation.scenario import Scenario
from aevo_jax.simulation.settings import Settings
from aevo_jax.stats.gain_test import Answers
from aevo_jax.stats.intervals import wilson
from aevo_jax.tasks.mixture import FAMILIES

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results' / 'verdict_rates.jsonl'
CODE = (
  'aevo_jax/stats/*.py',
  'aevo_jax/meta_agent/drift/levels.py',
  'aevo_jax/meta_agent/drift/ranks.py',
  'aevo_jax/meta_agent/drift/reversal.py',
  'aevo_jax/simulation/campaign.py',
  'aevo_jax/simulation/de*.py',
  'aevo_jax/simulation/item_set.py',
  'aevo_jax/simulation/surface.py',
  'benchmarks/verdict_*.py',
  'constitution.gin',
)
SURFACES = ('drawn', 'rugged', 'fitted', 'flat')
TRIALS = ROOT / 'benchmarks' / 'results' / 'trials.json'


def digest() -> str:
  """Computes the digest of the code that decides a row."""
  code = hashlib.sha256()
  for pattern in CODE:
    for path in sorted(ROOT.glob(pattern)):
      code.update(path.read_bytes())
  return code.hexdigest()[:16]


def rules(world: World) -> Constitution:
  """Returns the project's constitution with a world's budget."""
  constitution = constitution_lib.from_gin()
  budget = dataclasses.replace(
    constitution.budget,
    rounds=world.rounds,
    workers=world.workers,
    noise_seeds=world.replicates,
  )
  return dataclasses.replace(constitution, budget=budget)


def alarms(world: World, constitution: Constitution, seed: Sequence[int]) -> list[Alarm]:
  """Plays and judges one campaign."""
  campaign = Campaign(world, np.random.default_rng(seed))
  families = [f'family{k}' for k in range(len(world.levels))]
  detector = Detector(constitution, families, seed[-1])

  def named(made, names):
    trials = {}
    for i, name in enumerate(names):
      trials[name] = {
        f: Answers(made.dev[k][i], made.external[k][i]) for k, f in enumerate(families)
      }
    return trials

  detector.start(named(campaign.start(), [f'start{k}' for k in range(world.replicates)]))
  names = [str(k) for k in range(world.workers)]
  starting = world.pattern not in ('standing', 'creeping') and not world.following
  for number in range(1, world.rounds + 1):
    # The anchor is a replicate of the starting recipe as long as the standing recipe is that one.
    same = names[:1] if (starting or number < verdict_worlds.ONSET) and not world.drift else []
    if world.following and number > 1:
      same = []
    detector.judge(named(campaign.round(number), names), same)
  return detector.alarms


def measured(name: str, world: World, campaigns: int, seed: int) -> dict:
  """Makes the row of one world."""
  constitution = rules(world)
  found = []
  for index in range(campaigns):
    found.append(alarms(world, constitution, (seed, _number(name), index)))
  flaw = world.pattern != 'none'
  wanted = {f'family{PLANTED}', 'overall'} if world.pattern != 'turned' else None
  return _row(name, found, verdict_worlds.ONSET if flaw else None, wanted)


def _number(name: str) -> int:
  return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)


def _row(
  name: str, found: Sequence[Sequence[Alarm]], onset: int | None, wanted: set[str] | None
) -> dict:
  """Counts campaigns with a right alarm, by verdict, and with a false one."""
  right = 0
  false = 0
  by_verdict = collections.Counter(dict.fromkeys(ALARMS, 0))
  for of_campaign in found:
    hits = []
    if onset is not None:
      hits = [a for a in of_campaign if a.round >= onset and (not wanted or a.stream in wanted)]
    right += bool(hits)
    false += len(of_campaign) > len(hits)
    by_verdict.update({a.verdict for a in (hits if onset is not None else of_campaign)})
  return {
    'world': name,
    'campaigns': len(found),
    'flaw': onset is not None,
    'found': right,
    'false_alarms': false,
    'by_verdict': dict(by_verdict),
  }


def on_surface(surface: str, campaigns: int) -> dict:
  """Makes the row of random designs on a surface without a shift."""
  constitution = constitution_lib.from_gin()
  settings = Settings(surface=surface, trials=str(TRIALS) if surface == 'fitted' else '')
  recipe = (layout.root_file('substrate') / 'recipe.gin').read_text()
  scenario = Scenario(constitution, settings, recipe, tuple(FAMILIES), 'none')
  found = [outcome.alarms for outcome in designs.run(scenario, range(campaigns))]
  return _row(f'surface {surface}', found, None, None)


def shuffled(run: pathlib.Path, campaigns: int) -> dict:
  """Makes the row of a finished campaign whose trials are shuffled in time.

  Replicates of the starting recipe stay those that they are.
  """
  constitution = constitution_lib.read(run / 'constitution.gin')
  verifier = constitution.objective.verifier
  trials = {}
  for path in sorted((run / 'scores').glob('r*.external.json')):
    name = path.name.split('.')[0]
    dev = run / 'scores' / f'{name}.dev.json'
    trials[name] = _answers(dev, path, verifier)
  starting = {json.loads(p.read_text())['overlay'] for p in (run / 'trials').glob('r0w*/spec.json')}
  start = {}
  others = {}
  for name, answers in trials.items():
    overlay = json.loads((run / 'trials' / name / 'spec.json').read_text())['overlay']
    (start if overlay in starting else others)[name] = answers
  families = sorted(next(iter(trials.values())))
  rounds = constitution.budget.rounds
  found = []
  for index in range(campaigns):
    order = np.random.default_rng([7, index]).permutation(sorted(others))
    detector = Detector(constitution, families, index)
    detector.start(start)
    for part in np.array_split(order, rounds):
      detector.judge({name: others[name] for name in part})
    found.append(detector.alarms)
  return _row('a real campaign, its trials shuffled in time', found, None, None)


def _answers(dev: pathlib.Path, external: pathlib.Path, verifier: str) -> dict[str, Answers]:
  sides = []
  for path in (dev, external):
    marks = collections.defaultdict(list)
    for result in scoring.from_rows(json.loads(path.read_text())['items']):
      marks[result.family].append(result.right(verifier))
    sides.append(marks)
  return {f: Answers(np.array(sides[0][f]), np.array(sides[1][f])) for f in sorted(sides[0])}


# -- rows ------------------------------------------------------------------------------------------


def kept() -> list[dict]:
  """Reads the rows."""
  if not RESULTS.exists():
    return []
  return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def keep(row: dict, command: str) -> None:
  """Writes a row in the place of an older one of the same world."""
  others = [each for each in kept() if each['world'] != row['world']]
  row |= {'date': datetime.date.today().isoformat(), 'code': digest(), 'command': command}
  text = ''.join(json.dumps(each) + '\n' for each in [*others, row])
  partial = RESULTS.with_suffix('.partial')
  partial.write_text(text)
  partial.rename(RESULTS)


def table() -> str:
  """Renders the rows as two tables."""
  lines = []
  for flaw in (True, False):
    what = 'found' if flaw else 'false alarms'
    lines.append(
      f'| {"flaw" if flaw else "no flaw"} | campaigns | {what} | reversed | '
      'gaining nothing | decoupled |' + (' false alarms |' if flaw else '')
    )
    lines.append('|---|---|---|---|---|---|' + ('---|' if flaw else ''))
    for row in kept():
      if row['flaw'] == flaw:
        lines.append(_line(row))
    lines.append('')
  return '\n'.join(lines)


def _line(row: dict) -> str:
  n = row['campaigns']
  main = row['found'] if row['flaw'] else row['false_alarms']
  cells = [row['world'], str(n), _share(main, n)]
  cells += [f'{row["by_verdict"][verdict] / n:.3f}' for verdict in ALARMS]
  if row['flaw']:
    cells.append(_share(row['false_alarms'], n))
  return '| ' + ' | '.join(cells) + ' |'


def _share(count: int, total: int) -> str:
  interval = wilson(count, total)
  return f'{count / total:.3f} [{interval.low:.3f}, {interval.high:.3f}]'


def _work(only: str, campaigns: int, seed: int, run: str) -> Iterator[tuple[str, object]]:
  """Yields name and maker of each row."""
  for name, world in (verdict_worlds.planted() | verdict_worlds.nulls()).items():
    yield name, lambda n=name, w=world: measured(n, w, campaigns, seed)
  for surface in SURFACES:
    yield f'surface {surface}', lambda s=surface: on_surface(s, campaigns)
  if run:
    name = 'a real campaign, its trials shuffled in time'
    yield name, lambda: shuffled(pathlib.Path(run), campaigns)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--table', action='store_true')
  parser.add_argument('--only', default='')
  parser.add_argument('--campaigns', type=int, default=600)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--run', default='', help='folder of a finished campaign')
  arguments = parser.parse_args()
  if arguments.table:
    print(table())
    return
  loading.load([str(layout.root_file('constitution.gin'))], [], search_paths=layout.search_paths())
  code = digest()
  done = {(row['world'], row['code'], row['campaigns']) for row in kept()}
  work = list(_work(arguments.only, arguments.campaigns, arguments.seed, arguments.run))
  if not any(arguments.only in name for name, _ in work):
    parser.error(f'no world has {arguments.only!r} in its name')
  for name, make in work:
    if arguments.only not in name or (name, code, arguments.campaigns) in done:
      continue
    started = time.perf_counter()
    row = make()
    keep(row, f'python benchmarks/verdict_rates.py --campaigns={arguments.campaigns}')
    print(f'{_line(row)}  {time.perf_counter() - started:.0f} s', flush=True)


if __name__ == '__main__':
  main()
