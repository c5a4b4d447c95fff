"""Answers to the items of a set, item by item: items that are hard for one trial are for others."""

import dataclasses
import math

import numpy as np
from scipy import special


@dataclasses.dataclass(frozen=True)
class ItemSet:
  """The items of a set, by their difficulty.

  A trial of accuracy p answers an item if a normal variable is below the quantile of p. Between
  trials these variables correlate by the item's difficulty (a Gaussian copula).

  Attributes:
    difficulty: [F, items] standard normal.
    correlation: of the normal variables of two trials.
  """

  difficulty: np.ndarray
  correlation: float

  @classmethod
  def sample(cls, families: int, items: int, common: float, rng: np.random.Generator) -> 'ItemSet':
    """Draws a set.

    Args:
      families: F.
      items: of each family.
      common: correlation of two trials' answers to an item, at an accuracy of 1/2.
      rng: of the draw.

    Returns:
      The set.
    """
    difficulty = rng.standard_normal((families, items), dtype=np.float32)
    # Correlation of two indicators at 1/2: (2 / pi) arcsin rho.
    return cls(difficulty, math.sin(math.pi / 2 * common))

  def answers(self, accuracies: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws which items trials answer rightly.

    Args:
      accuracies: [N, F] of all items that there could be.
      rng: of what differs between trials.

    Returns:
      Booleans [N, F, items].
    """
    shape = (*accuracies.shape, self.difficulty.shape[1])
    own = rng.standard_normal(shape, dtype=np.float32)
    ability = special.ndtri(accuracies).astype(np.float32)[..., None]
    rho = np.float32(self.correlation)
    return np.sqrt(rho) * self.difficulty + np.sqrt(1 - rho) * own < ability
