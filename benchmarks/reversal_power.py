"""Power and false alarms of the verdicts (meta_agent.reversal): every test alone beside its design figure, and whole campaigns under six nulls.

  .venv/bin/python benchmarks/reversal_power.py             writes benchmarks/results/reversal_power.json; half an hour of two cores
  .venv/bin/python benchmarks/reversal_power.py --table     prints it as Markdown

Tests alone: dev ~ N(0, 1), external = s dev + .6 N(0, 1), rounds of 8, a reference of 2 rounds; rank tests on normal scores of correlation rho. Campaigns: six families and
their mean, six rounds of 8 of which two calibrate, the constitution's defaults, one family that changes. Nothing here knows how the detector works inside.
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
from aevo_jax.evaluation.intervals import wilson
from aevo_jax.meta_agent import calibration, rank_tests, reversal, slope_test
from aevo_jax.meta_agent.slope_test import Moments
from aevo_jax.runtime import single_threaded_blas

RESULT = pathlib.Path(__file__).parent / 'results' / 'reversal_power.json'
SIMULATIONS, CAMPAIGNS = 20_000, 4_000
SIZE = 8
SLOPE, RESIDUAL = 0.8, 0.6
# name -> design figures for 1, 2, 3, 4 rounds; None where there is none
DESIGN = {
    'exact, rho -.5': (.23, .51, .61, .77), 'exact, rho -.7': (.47, .83, .92, .98), 'exact, rho -.9': (.87, .995, 1.0, 1.0),
    'e-process, rho -.7': (.22, .45, .68, .82), 'e-process, rho -.9': (.64, .93, .99, 1.0),
    'slope .8 -> 0': (.785, .928, None, .974), 'slope .8 -> -.5': (.967, .998, None, .999),
    'slope .8 -> 0, reliability .5': (.23, .30, None, .36),
    'false alarm: spread 1 -> .5, noise .5, unscaled': (.17, .23, None, .31), 'false alarm: spread 1 -> .5, noise .5, scaled': (.07, .07, None, .08),
    'false alarm: slope, reliability .5': (.05, .05, None, .05), 'false alarm: slope, top 8 of 32': (.05, .05, None, .05),
    # design: .24 to .99 over these
    'false alarm: correlation, reliability .5': (None,) * 4, 'false alarm: correlation, top 8 of 32': (None,) * 4,
    'false alarm: correlation, reliability .5, top 8 of 32': (None,) * 4,
}
NULLS = ('coupled', 'coupled, top 8 of 32', 'coupled, residuals t(3)', 'independent', 'coupled, reliability .5', 'coupled, spread 1 -> .5 with noise .5')
CHANGES = tuple(f'slope .8 -> {to} from round {onset}' for onset in (3, 4, 5) for to in ('0', '-.8'))


def sample(rng, shape, slope=SLOPE, residual=RESIDUAL, spread=1.0, dev_noise=0.0, external_noise=0.0, of=SIZE):
  """dev, external [..., SIZE]; the best SIZE by dev of `of` trials."""
  true = spread * rng.standard_normal((*shape, of))
  external = slope * true + residual * rng.standard_normal(true.shape) + external_noise * rng.standard_normal(true.shape)
  dev = true + dev_noise * rng.standard_normal(true.shape)
  best = np.argsort(-dev, axis=-1)[..., :SIZE]
  return np.take_along_axis(dev, best, -1), np.take_along_axis(external, best, -1)


def pooled(dev, external, item_variance=math.nan) -> Moments:
  """[simulations, rounds, SIZE] -> moments of each simulation."""
  x, y = dev - dev.mean(-1, keepdims=True), external - external.mean(-1, keepdims=True)
  rounds = dev.shape[1]
  total = lambda a, b: (a * b).sum((-1, -2))
  return Moments(SIZE * rounds, rounds, total(x, x), total(x, y), total(y, y), np.full(len(dev), (SIZE - 1) * rounds * item_variance))


def correlation_p(now: Moments):
  """One-sided Fisher z test that the correlation fell below that of whole, noise-free scores."""
  known = SLOPE / math.hypot(SLOPE, RESIDUAL)
  return stats.norm.sf((math.atanh(known) - np.arctanh(now.sxy / np.sqrt(now.sxx * now.syy))) * math.sqrt(now.n - now.groups - 2))


def rank_cell(rng, rho: float, rounds: int, test: str) -> np.ndarray:
  dev, external = sample(rng, (SIMULATIONS, rounds), slope=rho, residual=math.sqrt(1 - rho**2))
  pairs = np.triu_indices(SIZE, 1)
  signs = [np.sign(v[..., :, None] - v[..., None, :])[..., pairs[0], pairs[1]] for v in (dev, external)]
  discordant = (signs[0] != signs[1]).sum(-1)
  if test == 'exact':
    return discordant.sum(-1) >= rank_tests.critical((SIZE,) * rounds, 0.05)
  return (np.cumprod(rank_tests.e_value(discordant, SIZE), axis=-1) >= 20).any(-1)  # the onset is known: one product, looked at after every round


def slope_cell(rng, name: str, rounds: int) -> np.ndarray:
  shapes = (SIMULATIONS, 2), (SIMULATIONS, rounds)
  if 'slope .8' in name:
    noise = dict(dev_noise=1.0, external_noise=1.0) if 'reliability' in name else {}
    slopes = SLOPE, -0.5 if '-.5' in name else 0.0
    return slope_test.fell(*(pooled(*sample(rng, shape, slope=s, **noise)) for shape, s in zip(shapes, slopes))).p <= 0.05
  if 'spread' in name:  # the figure does not give its residual; here noise of .5 on external is all there is
    item = 0.25 if name.endswith(', scaled') else math.nan
    return slope_test.fell(*(pooled(*sample(rng, shape, spread=s, residual=0.0, dev_noise=0.5, external_noise=0.5), item) for shape, s in zip(shapes, (1.0, 0.5)))).p <= 0.05
  noise = dict(dev_noise=1.0, external_noise=1.0) if 'reliability' in name else {}
  now = pooled(*sample(rng, shapes[1], **noise, **(dict(of=32) if 'top' in name else {})))
  return (correlation_p(now) if 'correlation' in name else slope_test.fell(pooled(*sample(rng, shapes[0], **noise)), now).p) <= 0.05


def cells() -> list[dict]:
  rows = []
  for number, (name, figures) in enumerate(DESIGN.items()):
    for rounds, figure in zip((1, 2, 3, 4), figures):
      rng = np.random.default_rng([1, number, rounds])
      rank = name.startswith(('exact', 'e-process'))
      alarms = rank_cell(rng, -float(name.rpartition('-')[2]), rounds, name.partition(',')[0]) if rank else slope_cell(rng, name, rounds)
      rows.append({'cell': name, 'n': SIZE * rounds, 'design': figure} | rate(int(alarms.sum()), SIMULATIONS))
  return rows


def rate(alarms: int, simulations: int) -> dict:
  return {'alarms': alarms, 'simulations': simulations, 'rate': alarms / simulations, 'interval': list(wilson(alarms, simulations))}


def play(condition: str, rng: np.random.Generator, families: int = 6, rounds: int = 6) -> dict:
  """One campaign up to its first alarm: {'verdict', 'round', 'stream'}, verdict None if there was none."""
  rules, rows = Reversal(), []
  options = {'independent': dict(slope=0.0), 'coupled, reliability .5': dict(dev_noise=1.0, external_noise=1.0), 'coupled, top 8 of 32': dict(of=32)}.get(condition, {})
  for number in range(1, rounds + 1):
    if 'spread' in condition:
      options = dict(dev_noise=0.5, external_noise=0.5, spread=1.0 if number <= 2 else 0.5)
    dev, external = sample(rng, (families,), **options)
    if 't(3)' in condition:
      external = SLOPE * dev + RESIDUAL * rng.standard_t(3, dev.shape) / math.sqrt(3)
    if condition in CHANGES and number >= int(condition.rpartition(' ')[2]):
      external[0] = (-SLOPE if '-.8' in condition else 0.0) * dev[0] + RESIDUAL * rng.standard_normal(SIZE)
    item = options.get('dev_noise', 0.0) ** 2
    names = [f'family {i}' for i in range(families)]
    by_trial = lambda scores: {name: dict(enumerate(map(float, v))) for name, v in zip([*names, 'overall'], [*scores, scores.mean(0)])}
    variance = dict.fromkeys(names, item) | {'overall': item / families} if item else {}
    fixed = calibration.thresholds(rows, rules, rounds, SIZE, seed=0)
    rows.append(reversal.reduce_round(by_trial(dev), by_trial(external), variance, seed=number))
    for stream, verdict in reversal.verdicts(rows, rules, fixed).items():
      if verdict.verdict in ('reversed', 'decoupled'):
        return {'verdict': verdict.verdict, 'round': number, 'stream': stream}
  return {'verdict': None, 'round': 0, 'stream': ''}


def chunk(task: tuple[str, int, int]) -> list[dict]:
  condition, number, campaigns = task
  rng = np.random.default_rng([2, (NULLS + CHANGES).index(condition), number])
  return [play(condition, rng) for _ in range(campaigns)]


def summary(condition: str, outcomes: list[dict]) -> dict:
  """Rate of campaigns with an alarm; of one with a change, only an alarm for the changed family or overall that does not come before the change."""
  if condition in NULLS:
    return {'condition': condition} | rate(sum(o['verdict'] is not None for o in outcomes), len(outcomes)) | {
        name: sum(o['verdict'] == name for o in outcomes) for name in ('reversed', 'decoupled')}
  onset = int(condition.rpartition(' ')[2])
  right = [o for o in outcomes if o['round'] >= onset and o['stream'] in ('family 0', 'overall')]
  return {'condition': condition} | rate(len(right), len(outcomes)) | {'after_rounds': {k: sum(o['round'] == onset + k - 1 for o in right) for k in range(1, 8 - onset)}}


def table(result: dict) -> str:
  """Markdown: tests alone, null campaigns, campaigns with a change."""
  show = lambda r: f'{r["rate"]:.3f} [{r["interval"][0]:.3f}, {r["interval"][1]:.3f}]'
  lines = ['| test alone | n = 8 | 16 | 24 | 32 |', '|---|---|---|---|---|']
  for name in DESIGN:
    row = [c for c in result['cells'] if c['cell'] == name]
    lines.append(f'| {name} | ' + ' | '.join(f'{c["rate"]:.3f}' + ('' if c['design'] is None else f' ({c["design"]:g})') for c in row) + ' |')
  lines += ['', '| null campaign | any alarm | reversed | decoupled |', '|---|---|---|---|']
  lines += [f'| {c["condition"]} | {show(c)} | {c["reversed"]} | {c["decoupled"]} |' for c in result['campaigns'] if 'reversed' in c]
  lines += ['', '| one family changes | alarm for it by the end | after 1 round | 2 | 3 | 4 |', '|---|---|---|---|---|---|']
  for c in result['campaigns']:
    if 'after_rounds' in c:
      found = [c['after_rounds'].get(str(k)) for k in (1, 2, 3, 4)]
      shares = [sum(x or 0 for x in found[:k + 1]) / c['simulations'] for k in range(4)]
      lines.append(f'| {c["condition"]} | {show(c)} | ' + ' | '.join('' if f is None else f'{s:.2f}' for f, s in zip(found, shares)) + ' |')
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--table', action='store_true', help='print the stored result and do nothing else')
  if not parser.parse_args().table:
    result, parts = {'cells': cells(), 'campaigns': []}, 40
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('spawn')) as pool:
      running = {c: [pool.submit(chunk, (c, i, CAMPAIGNS // parts)) for i in range(parts)] for c in NULLS + CHANGES}
      for condition, chunks in running.items():
        result['campaigns'].append(summary(condition, [o for part in chunks for o in part.result()]))
        print(json.dumps(result['campaigns'][-1]), flush=True)
    RESULT.write_text(json.dumps(result, indent=1) + '\n')
  print(table(json.loads(RESULT.read_text())))


if __name__ == '__main__':
  single_threaded_blas()
  main()
