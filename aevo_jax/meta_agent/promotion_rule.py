"""The promotion rule, as the constitution fixes it for every agent.

    t = mean gain / (seed_sd sqrt(1 / looks + 1 / anchors))

against Student's t with the noise's degrees of freedom. A change passes if its mean gain is at
least `promotion.min_gain` and the one-sided p value is at most (1 - promotion.confidence) /
(changes that the whole campaign may test) / 2^looks. Summed over all changes and all looks that
each of them may get, that is at most 1 - confidence: Bonferroni's bound on one false promotion in a
campaign. It holds however the tests depend on each other, so also where all lean on the same
anchors, and where the change that is looked at again was chosen for its first look.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from aevo_jax.config.constitution import Constitution


def p_value(gains: Sequence[float], anchors: int, noise: dict) -> float:
  """One-sided p value of the mean of these gains, each over the same `anchors` trials; `noise` is
  that of the evidence.
  """
  error = noise['seed_sd'] * math.sqrt(1 / len(gains) + 1 / anchors)
  return float(special.stdtr(max(noise['degrees_of_freedom'], 1), -float(np.mean(gains)) / error))


def level(constitution: Constitution) -> float:
  """What the p values of all looks at one change may add up to: the constitution's, divided among
  all explorers that the campaign will have had.
  """
  budget = constitution.budget
  return (1 - constitution.promotion.confidence) / (budget.rounds * max(budget.workers - 1, 1))


def threshold(level: float, looks: int | np.ndarray) -> float | np.ndarray:
  """What the p value of the mean of so many looks may be at most."""
  return level / 2.0**looks


def passes(gains: Sequence[float], anchors: int, noise: dict, constitution: Constitution) -> bool:
  """Whether a change with these gains on the released external score may be promoted."""
  # Rounded: scores have two decimals, and .03 - .02 < .01 in floating point.
  return round(float(np.mean(gains)), 9) >= constitution.promotion.min_gain and p_value(
    gains, anchors, noise
  ) <= threshold(level(constitution), len(gains))
