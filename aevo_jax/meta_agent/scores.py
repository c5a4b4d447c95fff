"""Scores as evidence has them: right answers among items, on dev and as they are released."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from aevo_jax.stats import variance

OVERALL = 'overall'
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Proportion:
  """Right answers among items.

  Attributes:
    correct: right answers.
    total: items.
    accuracy: their ratio, rounded.
    low: lower end of the Wilson interval.
    high: upper end.
    verifier: name of the verifier where it is not the campaign's, else ''.
  """

  correct: int
  total: int
  accuracy: float
  low: float = 0.0
  high: float = 1.0
  verifier: str = ''

  @property
  def item_variance(self) -> float:
    """Variance of the accuracy by the luck of the items."""
    return variance.binomial_variance(self.correct, self.total)

  def to_json(self) -> dict[str, Any]:
    """Renders the fields; `verifier` only where there is one."""
    fields = dict(vars(self))
    if not self.verifier:
      del fields['verifier']
    return fields


@dataclasses.dataclass(frozen=True)
class DevScore:
  """A trial's score on the dev set.

  Attributes:
    overall: of all items.
    by_family: of each family; empty where families are not told apart.
    other_verifier: overall, by the verifier that does not count; None in schema 1.
  """

  overall: Proportion
  by_family: Mapping[str, Proportion] = _NOTHING
  other_verifier: Proportion | None = None

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> 'DevScore':
    """Reads a score.

    Args:
      fields: a score summary of `evaluation.scoring`, or a part of evidence. Further keys of a
        summary are left out.

    Returns:
      The score.
    """
    by_family = {}
    for name, part in fields['by_family'].items():
      by_family[name] = Proportion(**part)
    other = fields.get('other_verifier')
    if other is not None:
      other = Proportion(**other)
    return cls(Proportion(**fields[OVERALL]), by_family, other)

  def to_json(self) -> dict[str, Any]:
    """Renders the score as it stands in evidence."""
    return {
      OVERALL: self.overall.to_json(),
      'by_family': rendered(self.by_family),
      'other_verifier': None if self.other_verifier is None else self.other_verifier.to_json(),
    }

  def streams(self) -> dict[str, Proportion]:
    """Lists all proportions: 'overall' and every family."""
    return {OVERALL: self.overall, **self.by_family}

  def valued(self, objectives: Mapping[str, float]) -> float:
    """Computes overall accuracy with each family's right answers counted as they are worth.

    Args:
      objectives: family -> what a right answer is worth; 1 for a family that is not named.

    Returns:
      sum_f objective_f correct_f / total; plain accuracy where nothing lost trust.
    """
    if not objectives:
      return self.overall.accuracy
    correct = [objectives.get(name, 1.0) * part.correct for name, part in self.by_family.items()]
    return sum(correct) / self.overall.total


@dataclasses.dataclass(frozen=True)
class ReleasedScore:
  """A family's released accuracy, with the Wilson interval of `total` items."""

  accuracy: float
  total: int
  low: float = 0.0
  high: float = 1.0

  def to_json(self) -> dict[str, Any]:
    """Renders the fields."""
    return dict(vars(self))


def reliability(scores: Sequence[DevScore]) -> dict[str, float | None]:
  """Computes the share of the variance between a round's dev scores that is not the items' luck.

  Args:
    scores: of the trials that have one.

  Returns:
    stream -> reliability in [0, 1], rounded; None with fewer than three scores or none that differ.
  """
  if not scores:
    return {}
  reliabilities = {}
  for stream in scores[0].streams():
    accuracies = []
    item_variances = []
    for score in scores:
      part = score.streams()[stream]
      accuracies.append(part.accuracy)
      item_variances.append(part.item_variance)
    share = variance.reliability(accuracies, item_variances)
    reliabilities[stream] = None if share is None else round(share, 4)
  return reliabilities


def released_scores(fields: Mapping[str, Any]) -> dict[str, ReleasedScore]:
  """Reads the released scores of one trial.

  Args:
    fields: family -> object.

  Returns:
    family -> score.
  """
  scores = {}
  for family, part in fields.items():
    scores[family] = ReleasedScore(**part)
  return scores


def rendered(scores: Mapping[str, Proportion | ReleasedScore] | None) -> dict[str, Any] | None:
  """Renders scores by family.

  Args:
    scores: family -> score, or None.

  Returns:
    family -> object, or None.
  """
  if scores is None:
    return None
  return {name: score.to_json() for name, score in scores.items()}
