"""How often proxies that judge each other raise a false alarm, see one of them depart, and name it.

  .venv/bin/python benchmarks/proxy_consensus.py run --worlds=design [--campaigns=600]
      whole simulated campaigns, world by world; what is there is kept, unless the code has changed
  .venv/bin/python benchmarks/proxy_consensus.py table
      Markdown of benchmarks/results/proxy_consensus.json

A campaign has 6 rounds of 8 trials if nothing else is said. The log-odds of a proxy's score are
`SCALE` times .8 quality + .6 of its own + item noise; reliability 1 has no item noise, .5 as much
as everything else. From round 3 on, the first after calibration, the world changes: policies
converge, levels drift, or some proxies follow a quality of their own, the same for all of them. The
judge is meta_agent.drift.proxies under the constitution's default `reversal`.

The worlds of `DESIGN` were looked at while the rule was made. Of `JUDGE`, four were looked at as
well before the rule was final: own part t(3) with spread .5, unequal noise, drift with one proxy
higher, and two proxies; the others were only judged on.
"""

import argparse
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from aevo_jax.runtime import single_threaded_blas

single_threaded_blas()  # before numpy is imported

import numpy as np
from scipy import special

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift import proxies
from aevo_jax.stats.intervals import wilson

RESULTS = pathlib.Path(__file__).parent / 'results' / 'proxy_consensus.json'
ROUNDS = 6
ONSET = 3
NAMES = ('dev', 'rules', 'families', 'order', 'samples')
FAMILIES = ('overall', 'a', 'b', 'c', 'd', 'e', 'f')
SCALE = 0.12  # in log-odds; .03 in accuracy at a level of .5
CODE = ('stats', 'meta_agent/drift')
EVENTS = ('alarm', 'right', 'innocent', 'undecided', 'converged')


class World(NamedTuple):
  """What campaigns are drawn from.

  Attributes:
    name: in the table.
    proxies: how many.
    departing: how many of them follow another quality from `ONSET` on.
    streams: overall alone, or overall and families.
    affected: of the streams, the last ones, on which they do.
    trials: a round.
    noise: variance of the items' noise, in units of all else.
    spread: of quality from `ONSET` on, 1 before.
    own: what a proxy has of its own from `ONSET` on, times .6.
    freedom: of Student's t of what a proxy has of its own, 0 for normal.
    level: log-odds around which scores lie in round 1.
    drift: added to that every round; of the first proxy alone where `apart`.
    unequal: log of how much more a proxy has of its own per unit of quality.
    apart: the first proxy's level is 2 log-odds higher.
  """

  name: str
  proxies: int = 5
  departing: int = 0
  streams: int = 1
  affected: int = 1
  trials: int = 8
  noise: float = 0.0
  spread: float = 1.0
  own: float = 1.0
  freedom: int = 0
  level: float = 0.0
  drift: float = 0.0
  unequal: float = 0.0
  apart: bool = False


DESIGN = (
  World('all coupled'),
  World('all coupled, reliability .5', noise=1.0),
  World('spread of quality 1 -> .5', spread=0.5),
  World('spread of quality 1 -> .3', spread=0.3),
  World('spread of quality 1 -> .5, reliability .5', noise=1.0, spread=0.5),
  World('all shrinks to .5', spread=0.5, own=0.5),
)
JUDGE = (
  World('spread of quality 1 -> .3, three proxies', 3, spread=0.3),
  World('spread of quality 1 -> .5, two proxies', 2, spread=0.5),
  World('spread of quality 1 -> .3, 16 trials a round', trials=16, spread=0.3),
  World('own part t(3)', freedom=3),
  World('own part t(3), spread of quality 1 -> .5', freedom=3, spread=0.5),
  World('unequal noise', unequal=0.5),
  World('unequal noise, spread of quality 1 -> .5', unequal=0.5, spread=0.5),
  World('levels drift by .5 a round to the ceiling', level=1.0, drift=0.5),
  World('levels drift, one proxy 2 log-odds higher', level=0.0, drift=0.5, apart=True),
  World('spread of quality 1 -> .3, six families', streams=7, affected=7, spread=0.3),
  World('all coupled, six families', streams=7, affected=7),
)
DEPARTURES = (
  World('one of five departs', departing=1),
  World('one of five departs, reliability .5', departing=1, noise=1.0),
  World('one of five departs, spread of quality 1 -> .5', departing=1, spread=0.5),
  World('two of five depart together', departing=2),
  World('all five depart together', departing=5),
  World('one of three departs', 3, 1),
  World('one of two departs', 2, 1),
  World('two of four depart together', 4, 2),
  World('one of five departs, 16 trials a round', departing=1, trials=16),
  World('one of five departs, 16 trials, reliability .5', departing=1, trials=16, noise=1.0),
  World('one of five departs everywhere, six families', departing=1, streams=7, affected=7),
  World('one of five departs on one of six families', departing=1, streams=7),
)
GROUPS = {'design': DESIGN, 'judge': JUDGE, 'departures': DEPARTURES}


@functools.cache
def digest() -> str:
  """Of the code that decides the rows, this file among it."""
  root = pathlib.Path(proxies.__file__).parents[2]
  paths = [pathlib.Path(__file__)]
  for name in CODE:
    paths += sorted((root / name).rglob('*.py'))
  return hashlib.sha256(b''.join(path.read_bytes() for path in paths)).hexdigest()[:12]


class Played(NamedTuple):
  """A campaign, and the correlation of the mean of all proxies with the truth after the onset."""

  rounds: list[proxies.Round]
  correlation: float


def play(world: World, rng: np.random.Generator) -> Played:
  rounds = []
  means = []
  truth = []
  for number in range(1, ROUNDS + 1):
    after = number >= ONSET
    quality, other = rng.standard_normal((2, world.streams, world.trials))
    if after:
      quality = world.spread * quality
    scores = np.empty((world.proxies, world.streams, world.trials))
    for proxy in range(world.proxies):
      follows = quality.copy()
      if proxy < world.departing and after:
        follows[world.streams - world.affected :] = other[world.streams - world.affected :]
      own = _own(world, rng, after) * np.exp(world.unequal * quality)
      items = np.sqrt(world.noise) * rng.standard_normal(quality.shape)
      scores[proxy] = 0.8 * follows + own + items
    if after:
      means.append(scores[:, -1].mean(axis=0))
      truth.append(quality[-1])
    rounds.append(_round(world, scores, world.level + world.drift * (number - 1)))
  correlation = np.corrcoef(np.concatenate(means), np.concatenate(truth))[0, 1]
  return Played(rounds, float(correlation))


def _own(world: World, rng: np.random.Generator, after: bool) -> np.ndarray:
  shape = (world.streams, world.trials)
  if world.freedom:
    own = rng.standard_t(world.freedom, shape) / np.sqrt(world.freedom / (world.freedom - 2))
  else:
    own = rng.standard_normal(shape)
  return 0.6 * own * (world.own if after else 1.0)


def _round(world: World, scores: np.ndarray, level: float) -> proxies.Round:
  trials = {}
  for trial in range(world.trials):
    of_trial = {}
    for proxy in range(world.proxies):
      start = level + 2.0 * (world.apart and proxy == 0)
      parts = {}
      for stream in range(world.streams):
        accuracy = float(special.expit(start + SCALE * scores[proxy, stream, trial]))
        variance = world.noise * (SCALE * accuracy * (1 - accuracy)) ** 2
        parts[FAMILIES[stream]] = (accuracy, variance)
      of_trial[NAMES[proxy]] = parts
    trials[f't{trial}'] = of_trial
  return trials


def outcome(world: World, rounds: list[proxies.Round]) -> dict[str, bool]:
  """What the judge made of a campaign, by `EVENTS`."""
  judgements = proxies.judge(rounds, Reversal(), ROUNDS)
  named = set()
  spoken = []
  for judgement in judgements:
    for stream, out in judgement.departed.items():
      named |= {(stream, proxy) for proxy in out}
    for parts in judgement.verdicts.values():
      spoken += parts.values()
  bad = NAMES[: world.departing]
  affected = FAMILIES[world.streams - world.affected : world.streams]
  wrong = {(s, p) for s, p in named if p not in bad or s not in affected}
  disputed = any(verdict.verdict == proxies.DISAGREE for verdict in spoken)
  return {
    'alarm': bool(named) or disputed,
    'right': bool(named) and not wrong,
    'innocent': bool(wrong),
    'undecided': disputed and not named,
    'converged': any(verdict.why == proxies.CONVERGED for verdict in spoken),
  }


def run(worlds: Sequence[World], campaigns: int) -> None:
  results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
  for world in worlds:
    name = world.name
    cell = results.get(name, {})
    if cell.get('code') != digest():
      cell = {'code': digest(), 'campaigns': 0, 'correlation': 0.0} | dict.fromkeys(EVENTS, 0)
    began = time.monotonic()
    while cell['campaigns'] < campaigns:
      rng = np.random.default_rng([cell['campaigns'], *name.encode()])
      played = play(world, rng)
      for event, happened in outcome(world, played.rounds).items():
        cell[event] += happened
      cell['correlation'] += (played.correlation - cell['correlation']) / (cell['campaigns'] + 1)
      cell['campaigns'] += 1
      if time.monotonic() - began > 20 or cell['campaigns'] == campaigns:
        began = time.monotonic()
        results[name] = cell
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')
    print(name, cell, flush=True)


def table() -> str:
  """Every rate with its 95% Wilson interval."""
  results = json.loads(RESULTS.read_text())
  lines = [
    '| campaign | campaigns | alarm | named, no innocent | an innocent named | undecided '
    '| undetermined, policies converge | correlation of the mean of all with the truth |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for title, worlds in (
    ('nulls that the rule was made on', DESIGN),
    ('further nulls', JUDGE),
    ('departures', DEPARTURES),
  ):
    lines.append(f'| *{title}* | | | | | | | |')
    for world in worlds:
      cell = results.get(world.name)
      if cell is not None:
        rates = ' | '.join(_rate(cell, event) for event in EVENTS)
        lines.append(
          f'| {world.name} | {cell["campaigns"]} | {rates} | {cell["correlation"]:.2f} |'
        )
  codes = sorted({cell['code'] for cell in results.values()})
  return '\n'.join([*lines, f'\ncode {", ".join(codes)}'])


def _rate(cell: dict, event: str) -> str:
  low, high = wilson(cell[event], cell['campaigns'])
  return f'{cell[event] / cell["campaigns"]:.3f} [{low:.3f}, {high:.3f}]'


if __name__ == '__main__':
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('mode', choices=['run', 'table'])
  parser.add_argument('--campaigns', type=int, default=600)
  parser.add_argument('--worlds', default='design', choices=[*GROUPS])
  arguments = parser.parse_args()
  if arguments.mode == 'run':
    run(GROUPS[arguments.worlds], arguments.campaigns)
  print(table())
