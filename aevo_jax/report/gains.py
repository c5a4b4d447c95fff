"""What the final set says: base, starting and promoted recipe, and the gains between them with
paired intervals.

A recipe was retrained on several seeds and scored on the same items, so the interval of a gain
resamples seeds and items together, pairwise (`stats.intervals.paired_bootstrap`). The item
results are in scores/*.final.json once the arbiter has revealed them; until then only each
retraining's own score is known.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from aevo_jax.campaign.state import CampaignState
from aevo_jax.evaluation.scoring import ItemResult, from_rows
from aevo_jax.stats.intervals import paired_bootstrap, wilson

BASE, STARTING, PROMOTED = 'base', 'starting', 'promoted'
BOOTSTRAP_SEED, RESAMPLES, RESAMPLES_OF_PARTS = (
  0,
  2000,
  800,
)  # families and kinds are many, and rougher intervals do there


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
    return 'gain' if self.low > 0 else 'loss' if self.high < 0 else 'noise'


@dataclasses.dataclass(frozen=True)
class FinalResults:
  """scores: of 'base', 'starting' and 'promoted', as far as they were scored. gains: 'base' and
  'starting' -> what promoted gained over it; empty before the reveal. by_family, by_kind: name ->
  the same two, of those items."""

  scores: dict[str, Score]
  gains: dict[str, Gain]
  by_family: dict[str, tuple[dict[str, Score], dict[str, Gain]]]
  by_kind: dict[str, tuple[dict[str, Score], dict[str, Gain]]]


def _read(run: pathlib.Path, name: str, split: str) -> tuple[list[ItemResult], dict]:
  path = run / 'scores' / f'{name}.{split}.json'
  try:
    stored = json.loads(path.read_text())
    return from_rows(stored['items']), stored['summary']
  except FileNotFoundError:
    raise ScoreFileError(f'{path} is missing; restore it from a copy of the run') from None
  except (ValueError, KeyError, TypeError) as error:
    raise ScoreFileError(
      f'{path} cannot be read as a score file ({type(error).__name__}: {error}); see '
      f'`aevo audit {run}`'
    ) from None


def revealed_summary(run: pathlib.Path, name: str, split: str) -> dict:
  """The summary of a score file that the ledger has no score of (external scores); `aevo audit`
  recomputes it.

  Raises:
    ScoreFileError: missing or unreadable.
  """
  return _read(run, name, split)[1]


def read_items(run: pathlib.Path, name: str, split: str, summary: dict) -> list[ItemResult]:
  """The item results of one score file; `summary` is the ledger's, which must count as many right
  answers.

  Raises:
    ScoreFileError: missing, unreadable, or at odds with the ledger.
  """
  path, (results, _) = run / 'scores' / f'{name}.{split}.json', _read(run, name, split)
  expected, correct = summary['overall'], sum(r.right(summary['verifier']) for r in results)
  if (correct, len(results)) != (expected['correct'], expected['total']):
    raise ScoreFileError(
      f'{path} has {correct} of {len(results)} items right, recorded are '
      f'{expected["correct"]} of {expected["total"]}; see `aevo audit {run}`'
    )
  return results


def group(name: str) -> str:
  """'promoted0' -> 'promoted'."""
  return name.rstrip('0123456789')


def final_results(run: pathlib.Path, state: CampaignState, verifier: str) -> FinalResults:
  """Final scores and gains of a run; everything empty before the final was scored.

  Raises:
    ScoreFileError: see `read_items`.
  """
  summaries: dict[str, dict[str, dict]] = {}
  for name, summary in sorted((state.final or {'scores': {}})['scores'].items()):
    summaries.setdefault(group(name), {})[name] = summary
  if state.revealed is None:
    return FinalResults(
      {name: _of_summaries(list(scores.values())) for name, scores in summaries.items()}, {}, {}, {}
    )
  results = {
    name: [read_items(run, candidate, 'final', summary) for candidate, summary in scores.items()]
    for name, scores in summaries.items()
  }
  some = next(iter(results.values()))[0] if results else []
  families, kinds = [r.family for r in some], [f'{r.family}/{r.kind}' for r in some]
  for candidates in results.values():
    if any([f'{r.family}/{r.kind}' for r in candidate] != kinds for candidate in candidates):
      raise ScoreFileError(
        f'the score files of the final in {run / "scores"} are not about the same items; '
        f'see `aevo audit {run}`'
      )
  correct = {
    name: np.array([[r.right(verifier) for r in candidate] for candidate in candidates], bool)
    for name, candidates in results.items()
  }
  scores, gains = compare(correct)
  return FinalResults(scores, gains, _split(correct, families), _split(correct, kinds))


def compare(
  correct: dict[str, np.ndarray], resamples: int = RESAMPLES
) -> tuple[dict[str, Score], dict[str, Gain]]:
  """Scores of each group and the gains of 'promoted'; correct: group -> [seeds, items] of bool, on
  the same items.
  """
  scores = {name: _score(table, resamples) for name, table in correct.items()}
  gains = {}
  if PROMOTED in correct:
    for over in (BASE, STARTING):
      if over in correct:
        value, interval = paired_bootstrap(
          correct[PROMOTED], correct[over], seed=BOOTSTRAP_SEED, resamples=resamples
        )
        gains[over] = Gain(value, *interval)
  return scores, gains


def _split(
  correct: dict[str, np.ndarray], labels: Sequence[str]
) -> dict[str, tuple[dict[str, Score], dict[str, Gain]]]:
  parts = np.array(labels)
  return {
    label: compare(
      {name: table[:, parts == label] for name, table in correct.items()}, RESAMPLES_OF_PARTS
    )
    for label in sorted(set(labels))
  }


def _score(table: np.ndarray, resamples: int) -> Score:
  """Wilson over items for one set of weights, the bootstrap over seeds and items for several."""
  seeds, items = table.shape
  if seeds == 1:
    return _wilson(int(table.sum()), items)
  value, interval = paired_bootstrap(
    table, np.zeros((1, items)), seed=BOOTSTRAP_SEED, resamples=resamples
  )
  return Score(value, interval.low, interval.high, seeds, items)


def _wilson(correct: int, total: int) -> Score:
  interval = wilson(correct, total)
  return Score(correct / total, interval.low, interval.high, 1, total)


def _of_summaries(summaries: list[dict]) -> Score:
  """Before item results are known: the mean, inside the widest of the single intervals."""
  overall = [s['overall'] for s in summaries]
  return Score(
    sum(s['accuracy'] for s in overall) / len(overall),
    min(s['low'] for s in overall),
    max(s['high'] for s in overall),
    len(overall),
    overall[0]['total'],
  )
