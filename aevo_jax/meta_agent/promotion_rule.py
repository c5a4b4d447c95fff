"""The promotion rule, as the constitution fixes it for every agent.

    t = mean gain / (seed_sd sqrt(1 / looks + 1 / anchors))

against Student's t with the noise's degrees of freedom. A change passes if its mean gain is at
least `promotion.min_gain` and the one-sided p value is at most (1 - promotion.confidence) /
(changes that the whole campaign may test) / 2^looks. Summed over all changes and all looks that
each of them may get, that is at most 1 - confidence: Bonferroni's bound on one false promotion in a
campaign. It holds however the tests depend on each other. So it also holds where all lean on the
same anchors, and where the change that is looked at again was chosen for its first look.
"""

from collections.abc import Sequence

import numpy as np

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.evidence import Noise
from aevo_jax.stats.mean_gain import gain_p


def p_value(gains: Sequence[float], anchors: int, noise: Noise) -> float:
  """Computes the one-sided p value of a mean gain.

  Args:
    gains: of every look at the change, each over the same anchors.
    anchors: how many trials those are.
    noise: of the evidence.

  Returns:
    A probability.
  """
  gain = float(np.mean(gains))
  return gain_p(gain, noise.seed_sd, noise.degrees_of_freedom, len(gains), anchors)


def level(constitution: Constitution) -> float:
  """Computes what the p values of all looks at one change may add up to.

  Args:
    constitution: its level is divided among all explorers that the campaign will have had.

  Returns:
    A level of one change.
  """
  budget = constitution.budget
  return (1 - constitution.promotion.confidence) / (budget.rounds * max(budget.workers - 1, 1))


def threshold(level: float, looks: int | np.ndarray) -> float | np.ndarray:
  """Computes what the p value of the mean of some looks may be at most: level / 2^looks.

  Args:
    level: of all looks at one change.
    looks: how many, of any shape.

  Returns:
    Thresholds of that shape.
  """
  return level / 2.0**looks


def passes(gains: Sequence[float], anchors: int, noise: Noise, constitution: Constitution) -> bool:
  """Decides whether a change may be promoted.

  Args:
    gains: on the released external score, one for each look.
    anchors: trials that each gain is taken over.
    noise: of the evidence.
    constitution: holds the rule.

  Returns:
    Whether it passes.
  """
  # Rounded: scores have two decimals, and .03 - .02 < .01 in floating point.
  if round(float(np.mean(gains)), 9) < constitution.promotion.min_gain:
    return False
  return p_value(gains, anchors, noise) <= threshold(level(constitution), len(gains))
