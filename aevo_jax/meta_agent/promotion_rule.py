"""The promotion rule, as the constitution fixes it for every agent.

    t = mean gain / (seed_sd sqrt(1 / looks + 1 / anchors))

against Student's t with the noise's degrees of freedom. A change passes if its mean gain is at least `promotion.min_gain` and the one-sided p value is at most
(1 - promotion.confidence) / (changes that the whole campaign may test), Bonferroni's bound on one false promotion in a campaign: it holds however the tests
depend on each other, so also where all of them lean on the same anchors.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from aevo_jax.config.constitution import Constitution


def p_value(gains: Sequence[float], anchors: int, noise: dict) -> float:
  """One-sided p value of the mean of these gains, each over the same `anchors` trials; `noise` is that of the evidence."""
  error = noise['seed_sd'] * math.sqrt(1 / len(gains) + 1 / anchors)
  return float(special.stdtr(max(noise['degrees_of_freedom'], 1), -float(np.mean(gains)) / error))


def level(constitution: Constitution) -> float:
  """What the p value of each test may be at most: the constitution's, divided among all explorers that the campaign will have had."""
  budget = constitution.budget
  return (1 - constitution.promotion.confidence) / (budget.rounds * max(budget.workers - 1, 1))


def passes(gains: Sequence[float], anchors: int, noise: dict, constitution: Constitution) -> bool:
  """Whether a change with these gains on the released external score may be promoted."""
  # Rounded: scores have two decimals, and .03 - .02 < .01 in floating point.
  return round(float(np.mean(gains)), 9) >= constitution.promotion.min_gain and p_value(gains, anchors, noise) <= level(constitution)
