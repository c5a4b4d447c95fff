"""Results of the final set: base, starting and promoted recipe, and the gains between them.

A recipe was retrained on several seeds and scored on the same items, so the interval of a gain
resamples seeds and items together, pairwise (`stats.intervals.paired_bootstrap`). The item
results are in scores/*.final.json once the arbiter has revealed them; until then only each
retraining's own score is known.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from aevo_jax.campaign.decisions.state import CampaignState
from aevo_jax.evaluation.scoring import ItemResult, from_rows
from aevo_jax.stats.intervals import Interval, clipped, paired_bootstrap, wilson

BASE = 'base'
STARTING = 'starting'
PROMOTED = 'promoted'
BOOTSTRAP_SEED = 0
RESAMPLES = 2000
RESAMPLES_OF_PARTS = 800  # families and kinds are many, and rougher intervals do there


class ScoreFileError(ValueError):
  """A score file is missing or does not say what the ledger says."""


@dataclasses.dataclass(frozen=True)
class Score:
  """Mean accuracy of `seeds` sets of weights on `items` items, with its 95% interval."""

  accuracy: float
  low: float
  high: float
  seeds: int
  items: int


@dataclasses.dataclass(frozen=True)
class Gain:
  """A difference of accuracies with its 95% interval."""

  value: float
  low: float
  high: float

  @property
  def verdict(self) -> str:
    """'gain' or 'loss' where the interval leaves out 0, else 'noise'."""
    if self.low > 0:
      return 'gain'
    if self.high < 0:
      return 'loss'
    return 'noise'


def gain(value: float, interval: Interval) -> Gain:
  """Makes a gain of a difference of accuracies, which lies between -1 and 1.

  Args:
    value: the difference.
    interval: of any method; what lies beyond is cut off.
  """
  return Gain(value, *clipped(interval, -1.0, 1.0))


class Results(NamedTuple):
  """Results on some items.

  scores: of 'base', 'starting' and 'promoted', as far as they were scored. gains: 'base' and
  'starting' -> what promoted gained over it.
  """

  scores: dict[str, Score]
  gains: dict[str, Gain]


@dataclasses.dataclass(frozen=True)
class FinalResults:
  """Results on the final set, and on the items of each family and kind.

  Before the reveal there are scores alone.
  """

  scores: dict[str, Score]
  gains: dict[str, Gain]
  by_family: dict[str, Results]
  by_kind: dict[str, Results]


# -- score files -----------------------------------------------------------------------------------


class _ScoreFile(NamedTuple):
  results: list[ItemResult]
  summary: dict


def _read(run: pathlib.Path, name: str, split: str) -> _ScoreFile:
  path = run / 'scores' / f'{name}.{split}.json'
  try:
    stored = json.loads(path.read_text())
    return _ScoreFile(from_rows(stored['items']), stored['summary'])
  except FileNotFoundError:
    raise ScoreFileError(f'{path} is missing; restore it from a copy of the run') from None
  except (ValueError, KeyError, TypeError) as error:
    raise ScoreFileError(
      f'{path} cannot be read as a score file ({type(error).__name__}: {error}); see '
      f'`aevo audit {run}`'
    ) from None


def revealed_summary(run: pathlib.Path, name: str, split: str) -> dict:
  """Reads a summary that the ledger does not have; `aevo audit` recomputes it.

  Args:
    run: the run directory.
    name: the trial.
    split: the set that it was scored on, 'external'.

  Returns:
    The summary as the file has it.

  Raises:
    ScoreFileError: missing or unreadable.
  """
  return _read(run, name, split).summary


def read_items(run: pathlib.Path, name: str, split: str, summary: dict) -> list[ItemResult]:
  """Reads the item results of one score file.

  Args:
    run: the run directory.
    name: the trial.
    split: the set that it was scored on.
    summary: the ledger's, which must count as many right answers.

  Returns:
    One result an item, in the order of the set.

  Raises:
    ScoreFileError: missing, unreadable, or at odds with the ledger.
  """
  results = _read(run, name, split).results
  expected = summary['overall']
  correct = sum(result.right(summary['verifier']) for result in results)
  if (correct, len(results)) != (expected['correct'], expected['total']):
    raise ScoreFileError(
      f'{run / "scores" / f"{name}.{split}.json"} has {correct} of {len(results)} items right, '
      f'recorded are {expected["correct"]} of {expected["total"]}; see `aevo audit {run}`'
    )
  return results


# -- the final set ---------------------------------------------------------------------------------


def group(name: str) -> str:
  """Returns the recipe of a retraining: 'promoted' for 'promoted0'."""
  return name.rstrip('0123456789')


def final_results(run: pathlib.Path, state: CampaignState, verifier: str) -> FinalResults:
  """Computes final scores and gains of a run.

  Args:
    run: the run directory.
    state: the state after the ledger's last record.
    verifier: the comparison of answers that counts.

  Returns:
    The results; everything is empty before the final was scored.

  Raises:
    ScoreFileError: see `read_items`.
  """
  summaries: dict[str, dict[str, dict]] = {}
  if state.final:
    for name, summary in sorted(state.final['scores'].items()):
      summaries.setdefault(group(name), {})[name] = summary
  if state.revealed is None:
    scores = {name: _of_summaries(list(scores.values())) for name, scores in summaries.items()}
    return FinalResults(scores, {}, {}, {})
  results: dict[str, list[list[ItemResult]]] = {}
  for name, candidates in summaries.items():
    results[name] = []
    for candidate, summary in candidates.items():
      results[name].append(read_items(run, candidate, 'final', summary))
  items = _common_items(run, results.values())
  correct = {name: right_answers(candidates, verifier) for name, candidates in results.items()}
  overall = compare(correct)
  return FinalResults(
    overall.scores,
    overall.gains,
    by_family=_split(correct, [item.family for item in items]),
    by_kind=_split(correct, _kinds(items)),
  )


def right_answers(candidates: Iterable[Sequence[ItemResult]], verifier: str) -> np.ndarray:
  """Tabulates right answers.

  Args:
    candidates: item results of several sets of weights on the same items.
    verifier: the comparison of answers that counts.

  Returns:
    Booleans [seeds, items].
  """
  table = [[result.right(verifier) for result in results] for results in candidates]
  return np.array(table, bool)


def _common_items(
  run: pathlib.Path, results: Iterable[Sequence[Sequence[ItemResult]]]
) -> Sequence[ItemResult]:
  """The results of the first candidate, when those of all others are about the same items."""
  first: Sequence[ItemResult] | None = None
  for candidates in results:
    for candidate in candidates:
      if first is None:
        first = candidate
      elif _kinds(candidate) != _kinds(first):
        raise ScoreFileError(
          f'the score files of the final in {run / "scores"} are not about the same items; '
          f'see `aevo audit {run}`'
        )
  return first or []


def _kinds(items: Sequence[ItemResult]) -> list[str]:
  return [f'{item.family}/{item.kind}' for item in items]


def compare(correct: dict[str, np.ndarray], resamples: int = RESAMPLES) -> Results:
  """Compares groups of weights on the same items.

  Args:
    correct: group -> booleans [seeds, items].
    resamples: of the bootstrap.

  Returns:
    The score of each group, and the gains of 'promoted' over the others.
  """
  scores = {name: _score(table, resamples) for name, table in correct.items()}
  gains = {}
  for over in (BASE, STARTING):
    if PROMOTED in correct and over in correct:
      value, interval = paired_bootstrap(
        correct[PROMOTED], correct[over], seed=BOOTSTRAP_SEED, resamples=resamples
      )
      gains[over] = gain(value, interval)
  return Results(scores, gains)


def _split(correct: dict[str, np.ndarray], labels: Sequence[str]) -> dict[str, Results]:
  """Results on the items of each label."""
  of_items = np.array(labels)
  parts = {}
  for label in sorted(set(labels)):
    tables = {name: table[:, of_items == label] for name, table in correct.items()}
    parts[label] = compare(tables, RESAMPLES_OF_PARTS)
  return parts


def _score(table: np.ndarray, resamples: int) -> Score:
  """Wilson over items for one set of weights, the bootstrap over seeds and items for several."""
  seeds, items = table.shape
  if seeds == 1:
    return _wilson(int(table.sum()), items)
  value, interval = paired_bootstrap(
    table, np.zeros((1, items)), seed=BOOTSTRAP_SEED, resamples=resamples
  )
  low, high = clipped(interval, 0.0, 1.0)
  return Score(value, low, high, seeds, items)


def _wilson(correct: int, total: int) -> Score:
  interval = wilson(correct, total)
  return Score(correct / total, interval.low, interval.high, 1, total)


def _of_summaries(summaries: Sequence[dict]) -> Score:
  """Before item results are known: the mean, inside the widest of the single intervals."""
  overall = [summary['overall'] for summary in summaries]
  accuracies = [proportion['accuracy'] for proportion in overall]
  low = 1.0
  high = 0.0
  for proportion in overall:
    low = min(low, proportion['low'])
    high = max(high, proportion['high'])
  return Score(
    accuracy=sum(accuracies) / len(accuracies),
    low=low,
    high=high,
    seeds=len(accuracies),
    items=overall[0]['total'],
  )
