"""Power and false alarms of the verdicts (meta_agent.drift.reversal).

Every test alone beside its design figure, and whole campaigns under six nulls.

  .venv/bin/python benchmarks/reversal_power.py             writes
  benchmarks/results/reversal_power.json; ten CPU minutes .venv/bin/python
  benchmarks/reversal_power.py --table     prints it as Markdown

Tests alone: dev ~ N(0, 1), external = s dev + .6 N(0, 1), rounds of 8, a reference of 2 rounds;
rank tests on normal scores of correlation rho. Campaigns: six families and their mean, six rounds
of 8 of which two calibrate, the constitution's defaults, one family that changes. They are judged
many at a time by the detector's own functions, and two of every two hundred again one verdict at a
time; the two must agree.
"""

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import pathlib

import numpy as np
from scipy import stats

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift import calibration, reversal
from aevo_jax.runtime import single_threaded_blas
from aevo_jax.stats import concordance, rank_tests, slope_test
from aevo_jax.stats.intervals import wilson
from aevo_jax.stats.slope_test import Moments

RESULT = pathlib.Path(__file__).parent / 'results' / 'reversal_power.json'
SIMULATIONS, CAMPAIGNS = 20_000, 4_000
SIZE = 8
SLOPE, RESIDUAL = 0.8, 0.6
FAMILIES, ROUNDS = 6, 6
# name -> design figures for 1, 2, 3, 4 rounds; None where there is none
DESIGN = {
  'exact, rho -.5': (0.23, 0.51, 0.61, 0.77),
  'exact, rho -.7': (0.47, 0.83, 0.92, 0.98),
  'exact, rho -.9': (0.87, 0.995, 1.0, 1.0),
  'e-process, rho -.7': (0.22, 0.45, 0.68, 0.82),
  'e-process, rho -.9': (0.64, 0.93, 0.99, 1.0),
  'slope .8 -> 0': (0.785, 0.928, None, 0.974),
  'slope .8 -> -.5': (0.967, 0.998, None, 0.999),
  'slope .8 -> 0, reliability .5': (0.23, 0.30, None, 0.36),
  'false alarm: spread 1 -> .5, noise .5, unscaled': (0.17, 0.23, None, 0.31),
  'false alarm: spread 1 -> .5, noise .5, scaled': (0.07, 0.07, None, 0.08),
  'false alarm: spread 1 -> .5, noise .5, scaled with caution': (None,) * 4,  # as the verdicts do
  'false alarm: slope, reliability .5': (0.05, 0.05, None, 0.05),
  'false alarm: slope, top 8 of 32': (0.05, 0.05, None, 0.05),
  # design: .24 to .99 over these
  'false alarm: correlation, reliability .5': (None,) * 4,
  'false alarm: correlation, top 8 of 32': (None,) * 4,
  'false alarm: correlation, reliability .5, top 8 of 32': (None,) * 4,
}
NULLS = (
  'coupled, spread 1 -> .5 with noise .5',
  'coupled, residuals t(3)',
  'coupled, reliability .5',
  'coupled',
  'coupled, top 8 of 32',
  'independent',
)
CHANGES = tuple(
  f'slope .8 -> {to} from round {onset}' for onset in (3, 4, 5) for to in ('0', '-.8')
)


def sample(
  rng, shape, slope=SLOPE, residual=RESIDUAL, spread=1.0, dev_noise=0.0, external_noise=0.0, of=SIZE
):
  """dev, external [*shape, of]."""
  true = spread * rng.standard_normal((*shape, of))
  external = (
    slope * true
    + residual * rng.standard_normal(true.shape)
    + external_noise * rng.standard_normal(true.shape)
  )
  return true + dev_noise * rng.standard_normal(true.shape), external


def best(dev, external, by):
  """The SIZE trials that are best `by` a score.

  Broadcast, so that families keep the same trials.
  """
  chosen = np.broadcast_to(np.argsort(-by, axis=-1)[..., :SIZE], (*dev.shape[:-1], SIZE))
  return np.take_along_axis(dev, chosen, -1), np.take_along_axis(external, chosen, -1)


def pooled(dev, external, item_variance=math.nan) -> Moments:
  """[simulations, rounds, SIZE] -> moments of each simulation."""
  x, y = dev - dev.mean(-1, keepdims=True), external - external.mean(-1, keepdims=True)
  rounds = dev.shape[1]

  def total(a, b):
    return (a * b).sum((-1, -2))

  return Moments(
    SIZE * rounds,
    rounds,
    total(x, x),
    total(x, y),
    total(y, y),
    np.full(len(dev), (SIZE - 1) * rounds * item_variance),
  )


def correlation_p(now: Moments):
  """One-sided Fisher z test that the correlation fell below that of whole, noise-free scores."""
  known = SLOPE / math.hypot(SLOPE, RESIDUAL)
  return stats.norm.sf(
    (math.atanh(known) - np.arctanh(now.sxy / np.sqrt(now.sxx * now.syy)))
    * math.sqrt(now.n - now.groups - 2)
  )


def rank_cell(rng, rho: float, rounds: int, test: str) -> np.ndarray:
  dev, external = sample(rng, (SIMULATIONS, rounds), slope=rho, residual=math.sqrt(1 - rho**2))
  pairs = np.triu_indices(SIZE, 1)
  signs = [
    np.sign(v[..., :, None] - v[..., None, :])[..., pairs[0], pairs[1]] for v in (dev, external)
  ]
  discordant = (signs[0] != signs[1]).sum(-1)
  if test == 'exact':
    return discordant.sum(-1) >= rank_tests.critical((SIZE,) * rounds, 0.05)
  return (np.cumprod(rank_tests.e_value(discordant, SIZE), axis=-1) >= 20).any(
    -1
  )  # the onset is known: one product, looked at after every round


def slope_cell(rng, name: str, rounds: int) -> np.ndarray:
  shapes = (SIMULATIONS, 2), (SIMULATIONS, rounds)
  if 'slope .8' in name:
    noise = {'dev_noise': 1.0, 'external_noise': 1.0} if 'reliability' in name else {}
    slopes = SLOPE, -0.5 if '-.5' in name else 0.0
    return (
      slope_test.fell(
        *(
          pooled(*sample(rng, shape, slope=s, **noise))
          for shape, s in zip(shapes, slopes, strict=False)
        )
      ).p
      <= 0.05
    )
  if (
    'spread' in name
  ):  # the figure does not give its residual; here noise of .5 on external is all there is
    item = math.nan if 'unscaled' in name else 0.25
    both = (
      pooled(*sample(rng, shape, spread=s, residual=0.0, dev_noise=0.5, external_noise=0.5), item)
      for shape, s in zip(shapes, (1.0, 0.5), strict=False)
    )
    return slope_test.fell(*both, cautious='caution' in name).p <= 0.05
  noise = {'dev_noise': 1.0, 'external_noise': 1.0} if 'reliability' in name else {}
  dev, external = sample(rng, shapes[1], **noise, of=32 if 'top' in name else SIZE)
  now = pooled(*best(dev, external, by=dev))
  return (
    correlation_p(now)
    if 'correlation' in name
    else slope_test.fell(pooled(*sample(rng, shapes[0], **noise)), now).p
  ) <= 0.05


def cells() -> list[dict]:
  rows = []
  for number, (name, figures) in enumerate(DESIGN.items()):
    for rounds, figure in zip((1, 2, 3, 4), figures, strict=False):
      rng = np.random.default_rng([1, number, rounds])
      rank = name.startswith(('exact', 'e-process'))
      alarms = (
        rank_cell(rng, -float(name.rpartition('-')[2]), rounds, name.partition(',')[0])
        if rank
        else slope_cell(rng, name, rounds)
      )
      rows.append(
        {'cell': name, 'n': SIZE * rounds, 'design': figure} | rate(int(alarms.sum()), SIMULATIONS)
      )
  return rows


def rate(alarms: int, simulations: int) -> dict:
  return {
    'alarms': alarms,
    'simulations': simulations,
    'rate': alarms / simulations,
    'interval': list(wilson(alarms, simulations)),
  }


def scores(
  condition: str, rng: np.random.Generator, campaigns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
  """dev, external [campaigns, rounds, streams, SIZE], and item variance [streams] or None.

  The last stream is the mean of the others.
  """
  options = {
    'independent': {'slope': 0.0},
    'coupled, reliability .5': {'dev_noise': 1.0, 'external_noise': 1.0},
    'coupled, top 8 of 32': {'of': 32},
  }.get(condition, {})
  rounds = []
  for number in range(1, ROUNDS + 1):
    if 'spread' in condition:
      options = {'dev_noise': 0.5, 'external_noise': 0.5, 'spread': 1.0 if number <= 2 else 0.5}
    dev, external = sample(rng, (campaigns, FAMILIES), **options)
    if 't(3)' in condition:
      external = SLOPE * dev + RESIDUAL * rng.standard_t(3, dev.shape) / math.sqrt(3)
    if condition in CHANGES and number >= int(condition.rpartition(' ')[2]):
      external[:, 0] = (-SLOPE if '-.8' in condition else 0.0) * dev[
        :, 0
      ] + RESIDUAL * rng.standard_normal((campaigns, SIZE))
    if 'top' in condition:
      dev, external = best(dev, external, by=dev.mean(1, keepdims=True))
    rounds.append([np.concatenate([v, v.mean(1, keepdims=True)], 1) for v in (dev, external)])
  dev, external = np.moveaxis(np.array(rounds), 0, 2)
  noise = options.get('dev_noise', 0.0) ** 2
  return dev, external, np.array([noise] * FAMILIES + [noise / FAMILIES]) if noise else None


def round_rows(n, discordant, item, sums, at) -> dict[str, dict]:
  """A round of one campaign, as `reduce_round` gives it. at: the campaign and the round."""
  rows = {}
  for k, count in enumerate(discordant):
    row = {
      'n': n,
      'discordant': int(count),
      'item_variance': None if item is None else float(item[k]),
    }
    rows[str(k)] = row | {name: float(values[*at, k]) for name, values in sums.items()}
  return rows


def first_alarms(
  dev: np.ndarray, external: np.ndarray, item: np.ndarray | None, rules: Reversal
) -> list[tuple[str, int, int] | None]:
  """(verdict, round, stream) of each campaign's first alarm.

  What `reversal.verdicts` says, for many campaigns at once; `check` compares the two.
  """
  campaigns, rounds, streams, n = dev.shape

  def above(v):
    return (v[..., :, None] > v[..., None, :])[..., *np.triu_indices(n, 1)]

  discordant = (above(dev) != above(external)).sum(-1)
  x, y = dev - dev.mean(-1, keepdims=True), external - external.mean(-1, keepdims=True)
  sums = {'sxx': (x * x).sum(-1), 'sxy': (x * y).sum(-1), 'syy': (y * y).sum(-1)}

  def between(start, stop):
    return Moments(
      n * (stop - start),
      stop - start,
      *(v[:, start:stop].sum(1) for v in sums.values()),
      math.nan
      if item is None
      else np.broadcast_to((n - 1) * (stop - start) * item, (campaigns, streams)),
    )

  bets = rank_tests.e_process(np.moveaxis(rank_tests.e_value(discordant, n), 1, 2), rounds)
  start, reference = rules.calibration_rounds, between(0, rules.calibration_rounds)
  referable = (slope_test.positive_p(reference) <= rules.alpha) & ~(reference.reliability == 0)
  result: list[tuple[str, int, int] | None] = [None] * campaigns
  for t in range(rounds):
    reverses = rank_tests.e_bh(bets[..., t], rules.alpha)
    p = (
      np.ones((campaigns, streams))
      if t < start
      else np.minimum(*(slope_test.fell(reference, between(i, t + 1)).p for i in (start, t)))
    )
    p = np.where(referable, p, 1.0)
    for c in range(campaigns):
      # A threshold costs a replay, so it is asked for where it can matter: over seven streams it
      # lies near .001.
      if result[c] is not None or not (reverses[c].any() or p[c].min() < 0.01):
        continue
      if t >= start and not reverses[c].any():
        rows = [round_rows(n, discordant[c, i], item, sums, (c, i)) for i in range(t)]
        falls = p[c] <= calibration.thresholds(rows, rules, rounds, n, seed=0).slope_p
      else:
        falls = np.zeros(streams, bool)
      found = [
        (name, t + 1, int(np.argmax(which)))
        for name, which in (('reversed', reverses[c]), ('decoupled', falls))
        if which.any()
      ]
      result[c] = found[0] if found else None
  return result


def check(
  dev: np.ndarray,
  external: np.ndarray,
  item: np.ndarray | None,
  rules: Reversal,
  expected: tuple[str, int, int] | None,
) -> None:
  """Raises AssertionError unless the functions of a campaign raise that alarm first.

  They are `calibration.thresholds`, `reduce_round` and `verdicts`.
  """
  rows, names = [], [str(k) for k in range(dev.shape[1])]
  variance = {} if item is None else dict(zip(names, map(float, item), strict=False))
  for t in range(len(dev)):
    fixed = calibration.thresholds(rows, rules, len(dev), dev.shape[-1], seed=0)
    rows.append(
      concordance.reduce_round(
        *(
          {name: dict(enumerate(map(float, v))) for name, v in zip(names, side[t], strict=False)}
          for side in (dev, external)
        ),
        variance,
        seed=t,
      )
    )
    alarms = {
      v.stream: v.verdict
      for v in reversal.verdicts(rows, rules, fixed).values()
      if v.verdict in ('reversed', 'decoupled')
    }
    if alarms:
      assert (
        expected is not None and expected[1] == t + 1 and alarms[str(expected[2])] == expected[0]
      ), (expected, t + 1, alarms)
      return
  assert expected is None, expected


def chunk(task: tuple[str, int, int]) -> list[tuple[str, int, int] | None]:
  """First alarms of some campaigns; the first two of them are checked."""
  condition, number, campaigns = task
  rules = Reversal()
  found = scores(
    condition, np.random.default_rng([2, (NULLS + CHANGES).index(condition), number]), campaigns
  )
  alarms = first_alarms(*found, rules)
  for c in range(2):
    check(found[0][c], found[1][c], found[2], rules, alarms[c])
  return alarms


def summary(condition: str, outcomes: list) -> dict:
  """Rate of campaigns with an alarm.

  Of one with a change, only an alarm for the changed family or overall that does not come before
  the change.
  """
  if condition in NULLS:
    return (
      {'condition': condition}
      | rate(sum(o is not None for o in outcomes), len(outcomes))
      | {
        name: sum(o is not None and o[0] == name for o in outcomes)
        for name in ('reversed', 'decoupled')
      }
    )
  onset = int(condition.rpartition(' ')[2])
  right = [o for o in outcomes if o is not None and o[1] >= onset and o[2] in (0, FAMILIES)]
  return (
    {'condition': condition}
    | rate(len(right), len(outcomes))
    | {
      'after_rounds': {
        str(k): sum(o[1] == onset + k - 1 for o in right) for k in range(1, ROUNDS - onset + 2)
      }
    }
  )


def table(result: dict) -> str:
  """Markdown: tests alone, null campaigns, campaigns with a change."""

  def show(r):
    return f'{r["rate"]:.3f} [{r["interval"][0]:.3f}, {r["interval"][1]:.3f}]'

  lines = ['| test alone | n = 8 | 16 | 24 | 32 |', '|---|---|---|---|---|']
  for name in DESIGN:
    row = [c for c in result['cells'] if c['cell'] == name]
    lines.append(
      f'| {name} | '
      + ' | '.join(
        f'{c["rate"]:.3f}' + ('' if c['design'] is None else f' ({c["design"]:g})') for c in row
      )
      + ' |'
    )
  lines += ['', '| null campaign | any alarm | reversed | decoupled |', '|---|---|---|---|']
  lines += [
    f'| {c["condition"]} | {show(c)} | {c["reversed"]} | {c["decoupled"]} |'
    for c in result['campaigns']
    if 'reversed' in c
  ]
  lines += [
    '',
    '| one family changes | alarm for it by the end | after 1 round | 2 | 3 | 4 |',
    '|---|---|---|---|---|---|',
  ]
  for c in result['campaigns']:
    if 'after_rounds' in c:
      found = [c['after_rounds'].get(str(k)) for k in (1, 2, 3, 4)]
      shares = [sum(x or 0 for x in found[: k + 1]) / c['simulations'] for k in range(4)]
      lines.append(
        f'| {c["condition"]} | {show(c)} | '
        + ' | '.join('' if f is None else f'{s:.2f}' for f, s in zip(found, shares, strict=False))
        + ' |'
      )
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument(
    '--table', action='store_true', help='print the stored result and do nothing else'
  )
  if not parser.parse_args().table:
    result, parts = {'cells': cells(), 'campaigns': []}, 20
    with concurrent.futures.ProcessPoolExecutor(
      2, mp_context=multiprocessing.get_context('spawn')
    ) as pool:
      running = {
        c: [pool.submit(chunk, (c, i, CAMPAIGNS // parts)) for i in range(parts)]
        for c in NULLS + CHANGES
      }
      for condition, chunks in running.items():
        result['campaigns'].append(
          summary(condition, [o for part in chunks for o in part.result()])
        )
        print(json.dumps(result['campaigns'][-1]), flush=True)
    RESULT.write_text(json.dumps(result, indent=1) + '\n')
  print(table(json.loads(RESULT.read_text())))


if __name__ == '__main__':
  single_threaded_blas()
  main()
