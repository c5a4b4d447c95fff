"""The promotion rule, as the constitution fixes it for every agent.

The score that decides is the released external score. A trial that was chosen because it looked
good looks too good. So the first trial of a change only selects. Looks that test are fixed before
they are seen: trials of a recipe that an earlier round ran, or that several workers of the round
run. They are released whatever their dev scores are (`campaign.decisions.to_release`).

A change with such a look is a candidate, relative to one standing recipe. Its n looks are compared
with the m released anchors of that recipe:

    t = (mean of looks - mean of anchors) / se,    se^2 = s_c^2 / n + s_a^2 / m

against Student's t with the degrees of freedom of Welch (1947) and Satterthwaite (1946). s_a is the
standard deviation between seeds of anchors, pooled over the recipes that they ran. s_c is that of
changed recipes: the largest of the candidate's own one, that pooled over all changes with two or
more testing looks, s_a, and a floor (`promotion.seed_sd_floor`, at least the sd of rounding at
release). Its degrees of freedom are the pooled ones. So a change may be noisier than the anchors,
and noisier than other changes; two looks alone that happen to agree prove nothing.

A campaign tests at most `promotion.candidates` changes, in the order in which they became
candidates. Each has the level (1 - promotion.confidence) / promotion.candidates. It is tested after
every round that looked at it, from `promotion.looks` looks on. Its k-th test has 3 / 4^k of that
level: most for the first, which is often the only one. Over all candidates and tests the levels add
up to at most 1 - confidence. As far as each p value is valid, that bounds the probability of a
false promotion in a campaign, however the tests depend on each other (Bonferroni). The p values are
approximate where noise is not normal, where a few recipes are far noisier than others, and where
trials of one round share luck: benchmarks/promotion_noise.py measures how often noise is promoted
then.

A change that passes is not promoted while a protected family has fallen: the mean of its looks lies
more than `promotion.family_floor` below that of the anchors. The estimate itself decides and no
bound of it, since with a few looks a bound would stop every promotion or none.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.evidence import ExternalNoise, TrialEvidence
from aevo_jax.stats.comparisons.mean_gain import Sample, welch, welch_p


@dataclasses.dataclass
class Candidate:
  """A change of one standing recipe that is tested.

  Attributes:
    number: of the campaign's candidates, from 0.
    axis: one, or several that are changed together.
    changes: selector -> value.
    standing: overlay that was changed.
    looks: trials that test it and have a released external score.
    anchors: released trials of the standing recipe.
    tests: rounds that looked at it since it had `promotion.looks` looks.
    latest: the last round that looked at it.
  """

  number: int
  axis: str
  changes: dict[str, Any]
  standing: dict[str, Any]
  looks: list[TrialEvidence] = dataclasses.field(default_factory=list)
  anchors: list[TrialEvidence] = dataclasses.field(default_factory=list)
  tests: int = 0
  latest: int = 0

  @property
  def gain(self) -> float:
    """Mean of the looks less that of the anchors, rounded as far as sums of floats need it."""
    return round(_mean(self.looks) - _mean(self.anchors), 9)

  def fallen(self, constitution: Constitution) -> dict[str, float]:
    """Finds the protected families that fell by more than the floor.

    Args:
      constitution: holds the floor, and what is not protected.

    Returns:
      family -> difference of means, of the families that looks and anchors are told by.
    """
    rule = constitution.promotion
    looks = _by_family(self.looks)
    anchors = _by_family(self.anchors)
    fallen = {}
    for family in sorted(looks.keys() & anchors.keys()):
      difference = round(float(np.mean(looks[family]) - np.mean(anchors[family])), 9)
      if family not in rule.unprotected and difference < -rule.family_floor:
        fallen[family] = difference
    return fallen


def _mean(trials: Sequence[TrialEvidence]) -> float:
  return float(np.mean([trial.external for trial in trials]))


def _by_family(trials: Sequence[TrialEvidence]) -> dict[str, list[float]]:
  """family -> released accuracies."""
  scores: dict[str, list[float]] = {}
  for trial in trials:
    for family, score in (trial.external_by_family or {}).items():
      scores.setdefault(family, []).append(score.accuracy)
  return scores


def floor(constitution: Constitution) -> float:
  """Returns the least standard deviation of a released score that is ever assumed.

  Args:
    constitution: a score of d decimals has at least the sd of its rounding, 10^-d / sqrt(12).

  Returns:
    A standard deviation.
  """
  rounding = 10.0**-constitution.release.decimals / math.sqrt(12)
  return max(constitution.promotion.seed_sd_floor, rounding)


def anchor_sample(noise: ExternalNoise, count: int, constitution: Constitution) -> Sample:
  """Makes what the anchors' mean rests on.

  Args:
    noise: of the evidence.
    count: anchors.
    constitution: holds the floor.

  Returns:
    The sample.
  """
  sd = max(noise.anchor_sd, floor(constitution))
  return Sample(sd, max(noise.anchor_freedom, 1), count)


def change_sample(
  noise: ExternalNoise, scores: Sequence[float], constitution: Constitution
) -> Sample:
  """Makes what the mean of a change's looks rests on.

  Args:
    noise: of the evidence.
    scores: released ones of the change.
    constitution: holds the floor.

  Returns:
    The sample.
  """
  own = float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0
  sd = max(own, noise.changed_sd, noise.anchor_sd, floor(constitution))
  return Sample(sd, max(noise.changed_freedom, len(scores) - 1, 1), len(scores))


def p_value(candidate: Candidate, noise: ExternalNoise, constitution: Constitution) -> float:
  """Computes the one-sided p value of a candidate's gain.

  Args:
    candidate: with looks and anchors.
    noise: of the latest evidence.
    constitution: holds the floor.

  Returns:
    A probability.
  """
  scores = [trial.external for trial in candidate.looks]
  change = change_sample(noise, scores, constitution)
  anchor = anchor_sample(noise, len(candidate.anchors), constitution)
  return welch_p(candidate.gain, change, anchor)


def spending(test: float) -> float:
  """Returns the share of a candidate's level that a test has; over all tests they add up to 1.

      >>> spending(1)
      0.75

  Args:
    test: its number, from 1.

  Returns:
    3 / 4^test.
  """
  return 3.0 / 4.0**test


def level(constitution: Constitution, number: int, test: int) -> float:
  """Computes what the p value of a test may be at most.

  Args:
    constitution: its level is divided among the candidates of the campaign.
    number: of the candidate, from 0.
    test: of that candidate, from 1.

  Returns:
    A level; 0 beyond the last candidate.
  """
  rule = constitution.promotion
  if number >= rule.candidates or test < 1:
    return 0.0
  return (1 - rule.confidence) / rule.candidates * spending(test)


def passes(candidate: Candidate, noise: ExternalNoise | None, constitution: Constitution) -> bool:
  """Decides whether a candidate's gain counts; families are no part of it (`Candidate.fallen`).

  Args:
    candidate: a change, its looks and its anchors.
    noise: of the latest evidence. Without replicated anchors nothing passes.
    constitution: holds the rule.

  Returns:
    Whether it passes.
  """
  rule = constitution.promotion
  if noise is None or not noise.anchor_freedom or not candidate.anchors:
    return False
  if len(candidate.looks) < rule.looks or candidate.gain < rule.min_gain:
    return False
  threshold = level(constitution, candidate.number, candidate.tests)
  return p_value(candidate, noise, constitution) <= threshold


def needed_gain(change: Sample, anchor: Sample, level: float) -> float:
  """Computes the least gain that passes at a level.

  Args:
    change: behind the looks.
    anchor: behind the anchors.
    level: of the test.

  Returns:
    A gain; infinite at level 0.
  """
  if not level:
    return math.inf
  error = welch(change, anchor)
  return float(special.stdtrit(error.freedom, 1 - level)) * error.se
