"""Does dev still track the external score? A verdict on every stream (a family, or overall) after
every round, from statistics that tell no external score.

`stats.concordance.reduce_round` runs where the external scores are; only its rows leave that
place. `verdicts` judges rows, in this order:

1. reversed: the e-process of the ranks, with e-BH over streams (or the exact test, once, after
   `reversal.exact_rounds` rounds, with Holm over streams).
2. decoupled: the slope of external on dev fell below that of the calibration rounds, in all rounds
   since together or in the latest alone.
3. coupled: the mirrored exact test, over all rounds since calibration: dev and external rank alike.
4. undetermined, and why.

The rates of error are in calibration.py; `coupled` has alpha over all streams and looks, too, if
they are unrelated. Names of streams carry no meaning.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift.calibration import Row, Thresholds, distinct, history, window
from aevo_jax.stats import rank_tests, slope_test


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What is said of one stream after one round; `dataclasses.asdict` of it is JSON-able.

  Attributes:
    stream: its name. verdict: 'reversed', 'decoupled', 'coupled' or 'undetermined'.
    test: the one that spoke, or came nearest: 'e_process', 'exact', 'slope' (all rounds since
      calibration), 'latest_slope' (the latest alone) or 'concordance'.
    statistic: discordant pairs of the rank tests, Welch's t of the slope tests.
    p_value, e_value: one of them is None. threshold: what the p value may be at most, or the e
      value must be at least.
    n: trials that the test looked at.
    slope: external per dev in its window. reference_slope: of the calibration rounds, scaled by
      lambda_ratio. slope_error: standard error of `slope`. All None where the slopes cannot be
        compared.
    lambda_ratio: least reliability of dev now by that in the calibration rounds; None where item
      noise is not known and the reference is not scaled.
    minimum_detectable_effect: found with the constitution's power by this test at its threshold.
      Its unit is `effect`: 'slope_drop', external per dev, of the slope tests; 'correlation' of dev
      and external, the same in all rounds so far, of the rank tests against reversal. None if no
      effect can be found yet.
    effect: that unit. why: one sentence.
  """

  stream: str
  verdict: str
  test: str
  statistic: float
  p_value: float | None
  e_value: float | None
  threshold: float
  n: int
  slope: float | None
  reference_slope: float | None
  slope_error: float | None
  lambda_ratio: float | None
  minimum_detectable_effect: float | None
  effect: str
  why: str


def verdicts(
  rounds: Sequence[Mapping[str, Row]], rules: Reversal, thresholds: Thresholds
) -> dict[str, Verdict]:
  """Judges the latest of `rounds`.

  Args:
    rounds: stream -> row of `reduce_round`, of every round so far. thresholds: as
      `calibration.thresholds` fixed them before the latest.

  Returns:
    stream -> verdict, of every stream that was in any round.

  Raises:
    ValueError: the thresholds are those of another round.
  """
  if thresholds.round != len(rounds):
    raise ValueError(
      f'thresholds of round {thresholds.round} cannot judge round {len(rounds)}; take '
      'calibration.thresholds(rounds[:-1], ...)'
    )
  streams = list(dict.fromkeys(name for rows in rounds for name in rows))
  if not streams:
    return {}
  histories, hypotheses = {s: history(rounds, s) for s in streams}, len(distinct(rounds))
  tests = (
    _exact(histories, hypotheses, rules)
    if rules.test == 'exact'
    else _e_process(histories, hypotheses, rules, thresholds.planned_rounds)
  )
  slopes = _slopes(histories, rules, thresholds)
  return {
    s: _judge(s, histories[s], tests[s], slopes[s], hypotheses, rules, thresholds) for s in streams
  }


def _judge(
  stream: str,
  rows: tuple,
  ranks: tuple[bool, dict],
  slopes: tuple[dict, dict | None, str],
  hypotheses: int,
  rules: Reversal,
  thresholds: Thresholds,
) -> Verdict:
  reverses, rank_test = ranks
  fields, falls, why = slopes
  said = functools.partial(Verdict, stream=stream, **fields)
  if reverses:
    return said(
      verdict='reversed', why='dev and external rank the trials against each other', **rank_test
    )
  if falls is not None and falls['p_value'] <= falls['threshold']:
    return said(
      verdict='decoupled',
      why='external rises less with dev than it did in the calibration rounds',
      **falls,
    )
  since = [row for row in rows[rules.calibration_rounds :] if row] or [row for row in rows if row]
  sizes, discordant = [row[0] for row in since], sum(row[1] for row in since)
  p, level = (
    rank_tests.concordance_p(discordant, sizes),
    rules.alpha / (hypotheses * max(thresholds.planned_rounds, len(rows))),
  )
  nearest = falls or rank_test
  if p <= level:
    effect = {key: nearest[key] for key in ('minimum_detectable_effect', 'effect')}
    return said(
      verdict='coupled',
      test='concordance',
      statistic=discordant,
      p_value=p,
      e_value=None,
      threshold=level,
      n=sum(sizes),
      why='dev and external rank the trials alike',
      **effect,
    )
  return said(
    verdict='undetermined', why=why or 'neither a change nor agreement is beyond chance', **nearest
  )


def _slopes(
  histories: Mapping[str, tuple], rules: Reversal, thresholds: Thresholds
) -> dict[str, tuple[dict, dict | None, str]]:
  """stream -> (the slope's fields of a verdict, the test with the smaller p or None, why there is
  none).
  """
  unknown = dict.fromkeys(('slope', 'reference_slope', 'slope_error', 'lambda_ratio'))
  done, calibration = max(map(len, histories.values())), rules.calibration_rounds
  if done <= calibration:
    return dict.fromkeys(
      histories,
      (
        unknown,
        None,
        (
          f'round {done} of {calibration} calibration rounds: there is no reference for the '
          'slope before they are over'
        ),
      ),
    )
  reference = window(histories.values(), 0, calibration)
  significance = slope_test.positive_p(reference)
  windows = {
    'slope': window(histories.values(), calibration, done),
    'latest_slope': window(histories.values(), done - 1, done),
  }
  falls = {test: slope_test.fell(reference, now) for test, now in windows.items()}
  result = {}
  for i, stream in enumerate(histories):
    possible = [test for test, now in windows.items() if now.comparable[i]]
    if not reference.comparable[i]:
      why = (
        'no reference: too few trials in the calibration rounds, or dev does not differ '
        'between them'
      )
    elif reference.reliability[i] == 0:
      why = (
        'no reference: in the calibration rounds dev differs between trials no more than '
        'its items explain'
      )
    elif significance[i] > rules.alpha:
      why = (
        'no reference: the slope of the calibration rounds is not significantly above 0 (p '
        f'= {significance[i]:.2g}, needed {rules.alpha:g})'
      )
    elif not possible or thresholds.slope_p is None:
      why = 'too few trials since the calibration rounds, or dev does not differ between them'
    else:
      test = min(possible, key=lambda name: falls[name].p[i])
      now, fall = windows[test], slope_test.Fall(*(field[i] for field in falls[test]))
      scaled = not np.isnan(now.reliability[i]) and not np.isnan(reference.reliability[i])
      fields = {
        'slope': float(now.slope[i]),
        'reference_slope': float(fall.ratio * reference.slope[i]),
        'slope_error': float(np.sqrt(now.variance[i])),
        'lambda_ratio': float(fall.ratio) if scaled else None,
      }
      effect = slope_test.minimum_detectable_drop(fall, thresholds.slope_p, rules.power)
      result[stream] = (
        fields,
        {
          'test': test,
          'statistic': float(fall.statistic),
          'p_value': float(fall.p),
          'e_value': None,
          'threshold': thresholds.slope_p,
          'n': int(now.n[i]),
          'minimum_detectable_effect': effect,
          'effect': 'slope_drop',
        },
        '',
      )
      continue
    result[stream] = unknown, None, why
  return result


def _e_process(
  histories: Mapping[str, tuple], hypotheses: int, rules: Reversal, planned_rounds: int
) -> dict[str, tuple[bool, dict]]:
  """stream -> (whether e-BH rejects, the test's fields of a verdict)."""
  each = np.array(
    [
      [float(rank_tests.e_value(row[1], row[0])) if row else 1.0 for row in rows]
      for rows in histories.values()
    ]
  )
  current = rank_tests.e_process(each, planned_rounds)[:, -1]
  # Streams with the same rows are one hypothesis and enter once.
  once = {rows: value for rows, value in zip(histories.values(), current)}
  rejected = dict(zip(once, rank_tests.e_bh(np.array(list(once.values())), rules.alpha)))
  needed = hypotheses / (rules.alpha * max(sum(rejected.values()), 1))
  return {
    stream: (
      bool(rejected[rows]),
      {'test': 'e_process', 'p_value': None, 'e_value': float(value), 'threshold': needed}
      | _pairs(rows, rules.power, ('e_process', planned_rounds, hypotheses / rules.alpha)),
    )
    for (stream, rows), value in zip(histories.items(), current)
  }


def _exact(
  histories: Mapping[str, tuple], hypotheses: int, rules: Reversal
) -> dict[str, tuple[bool, dict]]:
  """As `_e_process`, of the test that is run once: before `exact_rounds` rounds nothing is
  rejected, and afterwards its result stands.
  """
  first = {stream: rows[: rules.exact_rounds] for stream, rows in histories.items()}
  p_values = {
    s: rank_tests.reversal_p(sum(r[1] for r in rows if r), [r[0] for r in rows if r])
    for s, rows in first.items()
  }
  once = {histories[s]: p for s, p in p_values.items()}
  rejected = dict(zip(once, rank_tests.holm(np.array(list(once.values())), rules.alpha)))
  level = rules.alpha / hypotheses
  due = max(map(len, histories.values())) >= rules.exact_rounds
  return {
    s: (
      due and bool(rejected[histories[s]]),
      {'test': 'exact', 'p_value': p_values[s], 'e_value': None, 'threshold': level}
      | _pairs(first[s], rules.power, ('exact', 0, level)),
    )
    for s in histories
  }


def _pairs(rows: tuple, power: float, alarm: tuple[str, int, float]) -> dict:
  sizes = tuple(row[0] for row in rows if row)
  return {
    'statistic': sum(row[1] for row in rows if row),
    'n': sum(sizes),
    'minimum_detectable_effect': _detectable(sizes, power, *alarm),
    'effect': 'correlation',
  }


@functools.lru_cache(maxsize=4096)
def _detectable(
  sizes: tuple[int, ...], power: float, test: str, planned_rounds: int, threshold: float
) -> float | None:
  def e_process(discordant):
    each = np.stack([rank_tests.e_value(discordant[:, i], n) for i, n in enumerate(sizes)], -1)
    return rank_tests.e_process(each, planned_rounds)[:, -1] >= threshold

  def exact(discordant):
    critical = rank_tests.critical(sizes, threshold)
    return discordant.sum(-1) >= (np.inf if critical is None else critical)

  return rank_tests.detectable_correlation(
    sizes, e_process if test == 'e_process' else exact, power
  )
