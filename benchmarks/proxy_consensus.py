"""How often proxies that judge each other raise a false alarm, see one of them depart.

And name the right one: whole simulated campaigns.

  .venv/bin/python benchmarks/proxy_consensus.py run [--campaigns=120] [--only='all coupled']
  adds to benchmarks/results/proxy_consensus.json, cell by cell .venv/bin/python
  benchmarks/proxy_consensus.py table     the JSON as a Markdown table

A campaign has 6 rounds, of 8 trials if nothing else is said. A proxy's score is .8 quality + .6 of
its own + item noise, in units of the spread between trials; reliability 1 has no item noise, .5 as
much as everything else. From round 3 on, the first after calibration, the proxies that depart
follow a quality of their own instead, the same for all of them. The judge is
meta_agent.drift.proxies under the constitution's default `reversal`.
"""

import argparse
import json
import pathlib
import time

import numpy as np

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift import proxies
from aevo_jax.stats.intervals import wilson

RESULTS = pathlib.Path(__file__).parent / 'results' / 'proxy_consensus.json'
ROUNDS, ONSET = 6, 3
NAMES = ('dev', 'rules', 'families', 'order', 'samples')
FAMILIES = ('overall', 'a', 'b', 'c', 'd', 'e', 'f')
# name -> (proxies, those that depart, streams, streams on which they do, trials a round, share of
# the campaigns)
CELLS = {
  'all coupled': (5, 0, 1, 1, 8, 1.0),
  'one of five departs': (5, 1, 1, 1, 8, 0.4),
  'two of five depart together': (5, 2, 1, 1, 8, 0.4),
  'all five depart together': (5, 5, 1, 1, 8, 0.4),
  'one of three departs': (3, 1, 1, 1, 8, 0.4),
  'one of two departs': (2, 1, 1, 1, 8, 0.4),
  'two of four depart together': (4, 2, 1, 1, 8, 0.4),
  'one of five departs, 16 trials a round': (5, 1, 1, 1, 16, 0.4),
  'all coupled, six families': (5, 0, 7, 7, 8, 0.3),
  'one of five departs everywhere, six families': (5, 1, 7, 7, 8, 0.15),
  'one of five departs on one of six families': (5, 1, 7, 1, 8, 0.15),
}
SCALE, LEVEL = 0.03, 0.5  # accuracies around LEVEL whose spread between trials is SCALE


def campaign(
  rng: np.random.Generator,
  count: int,
  bad: int,
  streams: int,
  affected: int,
  trials: int,
  reliability: float,
) -> tuple[list[proxies.Round], float]:
  """The rounds of a campaign.

  And the correlation of the mean of all proxies with the true quality after the onset. Of several
  streams the last ones are affected.
  """
  noise = 1 / reliability - 1
  rounds, means, truth = [], [], []
  for number in range(1, ROUNDS + 1):
    quality, other = rng.standard_normal((2, streams, trials))
    scores = np.empty((count, streams, trials))
    for j in range(count):
      follows = quality.copy()
      if j < bad and number >= ONSET:
        follows[streams - affected :] = other[streams - affected :]
      scores[j] = (
        0.8 * follows
        + 0.6 * rng.standard_normal((streams, trials))
        + np.sqrt(noise) * rng.standard_normal((streams, trials))
      )
    if number >= ONSET:
      means.append(scores[:, -1].mean(0))
      truth.append(quality[-1])
    rounds.append(
      {
        f't{i}': {
          NAMES[j]: {
            FAMILIES[s]: (LEVEL + SCALE * scores[j, s, i], SCALE**2 * noise) for s in range(streams)
          }
          for j in range(count)
        }
        for i in range(trials)
      }
    )
  return rounds, float(np.corrcoef(np.concatenate(means), np.concatenate(truth))[0, 1])


def outcome(
  rounds: list[proxies.Round], trials: int, bad: set[str], affected: set[str]
) -> dict[str, bool]:
  """What the judge made of a campaign."""
  said = proxies.judge(rounds, Reversal(), ROUNDS, trials)
  named = {(stream, p) for j in said for stream, out in j.departed.items() for p in out}
  disputed = any(
    v.verdict == proxies.DISAGREE
    for j in said
    for parts in j.verdicts.values()
    for v in parts.values()
  )
  wrong = {(stream, p) for stream, p in named if p not in bad or stream not in affected}
  return {
    'alarm': bool(named) or disputed,
    'named': bool(named),
    'right': bool(named) and not wrong,
    'all_right': not wrong and bad == {p for _, p in named} and bool(bad),
    'innocent': bool(wrong),
    'undecided': disputed and not named,
  }


def run(campaigns: int, only: str) -> None:
  known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
  for reliability in (1.0, 0.5):
    for name, (count, bad, streams, affected, trials, share) in CELLS.items():
      if only not in ('', name):
        continue
      key, wanted = f'{name}, reliability {reliability:g}', max(1, round(campaigns * share))
      cell = known.setdefault(key, {'campaigns': 0, 'seconds': 0.0, 'consensus_truth': 0.0})
      began = time.monotonic()
      while cell['campaigns'] < wanted:
        rounds, correlation = campaign(
          np.random.default_rng([cell['campaigns'], *key.encode()]),
          count,
          bad,
          streams,
          affected,
          trials,
          reliability,
        )
        for what, happened in outcome(
          rounds, trials, set(NAMES[:bad]), set(FAMILIES[streams - affected : streams])
        ).items():
          cell[what] = cell.get(what, 0) + happened
        cell['consensus_truth'] += (correlation - cell['consensus_truth']) / (cell['campaigns'] + 1)
        cell['campaigns'] += 1
      cell['seconds'] = round(cell['seconds'] + time.monotonic() - began, 1)
      RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + '\n')
      print(key, cell, flush=True)


def table() -> None:
  """Every rate with its 95% Wilson interval."""
  known = json.loads(RESULTS.read_text())
  print(
    '| campaign | reliability | campaigns | alarm | named, no innocent | an innocent '
    'named | undecided | correlation of the mean of all with the truth '
    '|\n|---|---|---|---|---|---|---|---|'
  )
  for name in CELLS:
    for reliability in ('1', '0.5'):
      cell = known.get(f'{name}, reliability {reliability}')
      if cell and cell['campaigns']:

        def rate(what, cell=cell):
          return (
            f'{cell[what] / cell["campaigns"]:.3f} '
            f'[{", ".join(f"{x:.3f}" for x in wilson(cell[what], cell["campaigns"]))}]'
          )

        print(
          f'| {name} | {reliability} | {cell["campaigns"]} | {rate("alarm")} | '
          f'{rate("right")} | {rate("innocent")} | {rate("undecided")} | '
          f'{cell["consensus_truth"]:.2f} |'
        )


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('what', choices=['run', 'table'])
  parser.add_argument('--campaigns', type=int, default=120)
  parser.add_argument('--only', default='', choices=['', *CELLS], help='one campaign of the table')
  arguments = parser.parse_args()
  run(arguments.campaigns, arguments.only) if arguments.what == 'run' else table()
