"""Whether dev tracks the external score: what the tests read of a campaign's rounds, by stream.

A stream is a family, or overall. `measure` runs where the external scores are, in the arbiter, and
only its rows leave that place (rounded: `evaluation.servers.told`); `meta_agent.drift.reversal`
judges them. A row has three parts:

- the number of pairs that dev and external rank differently in the latest round (`concordance`);
- the test that the slope fell below that of the calibration rounds (`slope_test`);
- the test that dev gained over the starting recipe and external did not follow (`gain_test`), where
  answers item by item are known.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aevo_jax.stats import concordance, gain_test, slope_test
from aevo_jax.stats.gain_test import Answers

OVERALL = 'overall'
# Significance of a reference slope.
_REFERENCE_P = 0.05

# stream -> trial -> score; None, or no entry, is missing
Scores = Mapping[str, Mapping[str, float | None]]
# stream -> {'n', 'discordant', 'slope', 'gain'}, JSON-able
Rows = dict[str, dict[str, Any]]


class Round(NamedTuple):
  """Scores of one round's trials, more is better.

  Attributes:
    dev: log-odds where they are accuracies of known items, else on any scale.
    external: of the same streams and trials, likewise.
    item_variance: stream -> variance of a dev score by what its items do to one trial alone; None
      or no entry where it is not known.
  """

  dev: Scores
  external: Scores
  item_variance: Mapping[str, float | None]


class Gains(NamedTuple):
  """What the gain test compares; each is trial -> family -> answers [items].

  Attributes:
    start: replicates of the starting recipe.
    trials: of the latest round.
    transfer: share of a dev gain that must arrive on the external set.
  """

  start: Mapping[str, Mapping[str, Answers]]
  trials: Mapping[str, Mapping[str, Answers]]
  transfer: float


def of_answers(trials: Mapping[str, Mapping[str, Answers]]) -> Round:
  """Turns answers into log-odds.

      >>> answers = Answers(np.array([1, 0, 1]), np.array([1, 1]))
      >>> round(of_answers({'t': {'f': answers}}).dev['overall']['t'], 3)
      0.511

  Args:
    trials: trial -> family -> answers [items] on dev and external.

  Returns:
    The round; overall takes all items together.
  """
  names = sorted(trials)
  if not names:
    return Round({}, {}, {})
  families = sorted(trials[names[0]])
  dev = {}
  external = {}
  variance = {}
  for stream in (*families, OVERALL):
    members = families if stream == OVERALL else [stream]
    table = _stack([[trials[name][family].dev for family in members] for name in names])
    outside = _stack([[trials[name][family].external for family in members] for name in names])
    dev[stream] = dict(zip(names, _log_odds(table), strict=True))
    external[stream] = dict(zip(names, _log_odds(outside), strict=True))
    variance[stream] = _own_variance(table)
  return Round(dev, external, variance)


def of_accuracies(dev: Scores, external: Scores, items: int | None, external_items: int) -> Round:
  """Turns accuracies into log-odds where only the numbers of items are known.

  Items then count with their whole binomial variance, more than what differs between trials.

  Args:
    dev: shares of right answers.
    external: likewise.
    items: behind a dev accuracy; None where it is not known.
    external_items: behind an external one.

  Returns:
    The round.
  """
  resolution = items or external_items
  log_odds = {}
  variance: dict[str, float | None] = {}
  for stream, scores in dev.items():
    log_odds[stream] = _each_log_odds(scores, resolution)
    shares = np.array([score for score in scores.values() if score is not None])
    variance[stream] = None
    if items and len(shares):
      smoothed = (shares * items + 0.5) / (items + 1)
      variance[stream] = float(np.mean(1 / (items * smoothed * (1 - smoothed))))
  outside = {stream: _each_log_odds(scores, external_items) for stream, scores in external.items()}
  return Round(log_odds, outside, variance)


def measure(
  rounds: Sequence[Round], *, calibration_rounds: int, seed: int, gains: Gains | None = None
) -> Rows:
  """Computes the rows of the latest round.

  Args:
    rounds: all so far, oldest first.
    calibration_rounds: the first rounds, which give the reference slope.
    seed: of the coin that breaks ties of the latest round.
    gains: for the gain test; None where answers are not known.

  Returns:
    Rows of the latest round's streams with two trials or more. 'slope' is a dictionary of `p`,
    `slope`, `reference` (scaled), `error`, `freedom`, `ratio` (None where item noise is not known)
    and `n`, or of `why` there is no test. 'gain' has `p`, `dev`, `external`, `dev_error`, `error`,
    `freedom`, `dev_freedom`, `luck`, `transfer` and `n`, or `why`.
  """
  windows = Windows(calibration_rounds)
  for each in rounds:
    windows.add(each)
  return windows.measure(seed=seed, gains=gains)


class Windows:
  """The rounds of a campaign so far, from which the rows of the latest follow (see `measure`)."""

  def __init__(self, calibration_rounds: int):
    """Makes a campaign without rounds.

    Args:
      calibration_rounds: the first rounds, which give the reference slope.
    """
    self._calibration_rounds = calibration_rounds
    self._rounds = 0
    self._latest: dict[str, slope_test.Round] = {}
    self._reference: dict[str, slope_test.Trials] = {}
    self._since: dict[str, slope_test.Trials] = {}

  def add(self, latest: Round) -> None:
    """Adds a round.

    Args:
      latest: behind those that were added before.
    """
    self._rounds += 1
    self._latest = {stream: _pairs(latest, stream) for stream in latest.dev}
    window = self._since if self._rounds > self._calibration_rounds else self._reference
    for stream, both in self._latest.items():
      part = slope_test.centred(both)
      window[stream] = slope_test.joined([window[stream], part]) if stream in window else part

  def measure(self, *, seed: int, gains: Gains | None = None) -> Rows:
    """Computes the rows of the latest round, see the function `measure`.

    Args:
      seed: of the coin that breaks its ties.
      gains: for the gain test.
    """
    tested = _gain_tests(gains)
    rows = {}
    for stream, both in self._latest.items():
      if len(both.dev) < 2:
        continue
      rows[stream] = {
        'n': len(both.dev),
        'discordant': concordance.discordant_pairs(both.dev, both.external, seed),
        'slope': self._slope(stream),
        'gain': tested.get(stream, {'why': _why_no_gain(gains)}),
      }
    return rows

  def _slope(self, stream: str) -> dict[str, Any]:
    """The slope test of one stream, over all rounds since the calibration rounds."""
    if self._rounds <= self._calibration_rounds:
      return {
        'why': f'round {self._rounds} of {self._calibration_rounds} calibration rounds: there is '
        'no reference for the slope before they are over'
      }
    nothing = slope_test.joined([])
    reference = slope_test.of_trials(self._reference.get(stream, nothing))
    now = slope_test.of_trials(self._since.get(stream, nothing))
    why = _why_no_slope(reference, now)
    if why:
      return {'why': why}
    fall = slope_test.fell(reference, now)
    return {
      'p': fall.p,
      'slope': now.value,
      'reference': fall.ratio * reference.value,
      'error': fall.error,
      'freedom': fall.freedom,
      'ratio': None if np.isnan(now.item_variance + reference.item_variance) else fall.ratio,
      'n': now.trials,
    }


def _stack(parts: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
  return np.stack([np.concatenate(part) for part in parts]).astype(np.float64)


def _log_odds(answers: np.ndarray) -> list[float]:
  """[trials] of answers [trials, items]."""
  return slope_test.log_odds(answers.mean(axis=1), answers.shape[1]).tolist()


def _each_log_odds(scores: Mapping[str, float | None], items: int) -> dict[str, float | None]:
  turned: dict[str, float | None] = {}
  for trial, score in scores.items():
    turned[trial] = None
    if score is not None:
      turned[trial] = float(slope_test.log_odds([score], items)[0])
  return turned


def _own_variance(answers: np.ndarray) -> float | None:
  """Variance of a trial's log-odds by what items do to it alone, of answers [trials, items]."""
  if len(answers) < 2:
    return None
  right = answers.sum(axis=1)
  shares = (right + 0.5) / (answers.shape[1] + 1)
  own = answers.var(axis=0, ddof=1).mean() / answers.shape[1]
  return float(own / (shares * (1 - shares)).mean() ** 2)


def _pairs(each: Round, stream: str) -> slope_test.Round:
  """The trials with both scores, sorted, so that sums do not depend on the order of the trials."""
  both = []
  for trial, score in each.dev.get(stream, {}).items():
    other = each.external[stream].get(trial)
    if score is not None and other is not None:
      both.append((score, other))
  both.sort()
  return slope_test.Round(
    [x for x, _ in both], [y for _, y in both], each.item_variance.get(stream)
  )


def _why_no_slope(reference: slope_test.Slope, now: slope_test.Slope) -> str:
  """Why a slope cannot be compared; '' if it can."""
  few = 'too few trials in {}, or dev does not differ between them'
  if not reference.comparable:
    return 'no reference: ' + few.format('the calibration rounds')
  if reference.reliability == 0:
    return (
      'no reference: in the calibration rounds dev differs between trials no more than its items '
      'explain'
    )
  significance = slope_test.positive_p(reference)
  if significance > _REFERENCE_P:
    return (
      'no reference: the slope of the calibration rounds is not significantly above 0 (p = '
      f'{significance:.1g}, needed {_REFERENCE_P:g})'
    )
  if not now.comparable:
    return few.format('the rounds since calibration')
  return ''


def _gain_tests(gains: Gains | None) -> dict[str, dict[str, Any]]:
  if gains is None or len(gains.start) < 2 or not gains.trials:
    return {}
  tests = gain_test.gains(_tables(gains.start), _tables(gains.trials), gains.transfer)
  if len(tests) == 1:
    tests[OVERALL] = next(iter(tests.values()))
  rows = {}
  for stream, test in tests.items():
    if np.isnan(test.dev):
      rows[stream] = {'why': 'no trial gained on dev over the starting recipe'}
    else:
      rows[stream] = test._asdict() | {'n': len(gains.trials)}
  return rows


def _why_no_gain(gains: Gains | None) -> str:
  if gains is None:
    return 'answers item by item, or replicates of the starting recipe, are not known'
  if len(gains.start) < 2:
    return (
      f'{len(gains.start)} scored replicates of the starting recipe, and two are needed; raise '
      'budget.noise_seeds'
    )
  if not gains.trials:
    return 'all trials of the round ran the starting recipe'
  return f'a family has fewer than {gain_test.LEAST_ITEMS} items'


def _tables(trials: Mapping[str, Mapping[str, Answers]]) -> dict[str, Answers]:
  """family -> answers [trials, items]."""
  names = sorted(trials)
  tables = {}
  for family in sorted(trials[names[0]]):
    tables[family] = Answers(
      np.stack([trials[name][family].dev for name in names]).astype(np.float64),
      np.stack([trials[name][family].external for name in names]).astype(np.float64),
    )
  return tables
