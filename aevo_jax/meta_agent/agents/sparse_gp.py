"""A plain Gaussian process over recipes near the best ones, with expected improvement.

Optuna's process (`optuna_search.Gp`) proposes values of all parameters at once, and a starting
recipe that is good already loses by most of them. This one chooses among recipes that differ in one
axis or two from the standing recipe or from one of the best so far. Its covariance is

    k(a, b) = s^2 exp(-d(a, b) / l),

with d the sum over parameters of the distance in their range (1 for another choice, and where only
one of the recipes has the parameter). l, s and the noise's variance maximize the likelihood of the
dev scores on a grid. Expected improvement (Jones et al. 1998) is over the best posterior mean, and
a batch is chosen one by one with the posterior mean in place of the scores to come (kriging
believer, Ginsbourger et al. 2010).
"""

import itertools
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from aevo_jax.meta_agent.agents.peers import Peer, Situation, overlay_of
from aevo_jax.meta_agent.agents.random_search import sample_near
from aevo_jax.meta_agent.encoding import Encoder, levels
from aevo_jax.meta_agent.policy import Assignment

AXIS = 'gp'
# Recipes to choose from, near each of the standing recipe and the best ones.
CANDIDATES = 150
BEST = 3
# The grid of hyperparameters; standard deviations are of accuracies.
LENGTHS = (1.0, 2.0, 4.0, 8.0, 16.0)
SIGNALS = (0.02, 0.05, 0.1, 0.2)
NOISES = (0.005, 0.01, 0.02)


class SparseGp(Peer):
  """Runs the recipes of the greatest expected improvement."""

  def propose(self, situation: Situation, count: int) -> list[Assignment]:
    """Fits the process to all dev scores and chooses a batch; arguments as in `Peer`."""
    overlays: list[dict[str, Any]] = []
    scores = []
    for evidence in situation.history:
      for trial in evidence.trials:
        if trial.dev is not None:
          overlays.append(dict(overlay_of(trial, evidence)))
          scores.append(trial.dev.overall.accuracy)
    rng = np.random.default_rng([situation.seed, situation.round])
    if not scores:
      return sample_near(situation, [situation.standing], count, rng, AXIS)
    encoder = Encoder(situation.constitution.space(), situation.defaults)
    kernel = Kernel.fit(distances(encoder, overlays, overlays), np.asarray(scores))
    mean = kernel.predict(distances(encoder, overlays, overlays)).mean
    starts = [situation.standing]
    for at in np.argsort(-mean, kind='stable'):
      if overlays[at] not in starts and len(starts) <= BEST:
        starts.append(overlays[at])
    candidates = []
    for near in sample_near(situation, starts, CANDIDATES * len(starts), rng, AXIS):
      if near.overlay not in overlays:
        candidates.append(near)
    pool = [c.overlay for c in candidates]
    batch: list[Assignment] = []
    for _ in range(count):
      predicted = kernel.predict(distances(encoder, pool, overlays))
      gain = predicted.mean - mean.max()
      z = gain / predicted.sd
      improvement = predicted.sd * (z * special.ndtr(z) + np.exp(-z * z / 2) / np.sqrt(2 * np.pi))
      at = int(np.argmax(improvement))
      batch.append(candidates[at])
      overlays.append(pool[at])
      believed = np.append(kernel.scores, predicted.mean[at])
      kernel = kernel.condition(distances(encoder, overlays, overlays), believed)
    return batch


class SparseGpTested(SparseGp):
  """The process under the promotion rule."""

  tested = True


def distances(encoder: Encoder, one: list[dict], other: list[dict]) -> np.ndarray:
  """Computes how far recipes lie apart.

  Args:
    encoder: of the search space.
    one: N overlays.
    other: M overlays.

  Returns:
    [N, M] sums over parameters.
  """
  rows = np.asarray([encoder.codes(encoder.prune(overlay)) for overlay in one])
  columns = np.asarray([encoder.codes(encoder.prune(overlay)) for overlay in other])
  live = encoder.active(rows)[:, None], encoder.active(columns)[None]
  apart = np.minimum(np.abs(rows[:, None] - columns[None]), 1.0)
  chosen = np.asarray([bool(levels(p)) for p in encoder.parameters])
  apart = np.where(chosen, apart > 0, apart)
  return np.where(live[0] & live[1], apart, live[0] ^ live[1]).sum(axis=2)


class Prediction(NamedTuple):
  """Posterior means and standard deviations of some recipes."""

  mean: np.ndarray
  sd: np.ndarray


class Kernel(NamedTuple):
  """The process conditioned on scores.

  Attributes:
    length: l.
    signal: s.
    noise: standard deviation of a score about its recipe's mean.
    level: mean of the process before any score.
    scores: [n].
    inverse: [n, n], of the scores' covariance.
  """

  length: float
  signal: float
  noise: float
  level: float
  scores: np.ndarray
  inverse: np.ndarray

  @classmethod
  def fit(cls, apart: np.ndarray, scores: np.ndarray) -> 'Kernel':
    """Finds the hyperparameters of the greatest likelihood.

    Args:
      apart: [n, n] distances.
      scores: [n].

    Returns:
      The process.
    """
    level = float(np.median(scores))
    best = (-np.inf, None)
    for length, signal, noise in itertools.product(LENGTHS, SIGNALS, NOISES):
      covariance = signal**2 * np.exp(-apart / length) + noise**2 * np.eye(len(scores))
      inverse = np.linalg.inv(covariance)
      centred = scores - level
      likelihood = -0.5 * (centred @ inverse @ centred + np.linalg.slogdet(covariance)[1])
      if likelihood > best[0]:
        best = (likelihood, cls(length, signal, noise, level, scores, inverse))
    return best[1]

  def condition(self, apart: np.ndarray, scores: np.ndarray) -> 'Kernel':
    """Conditions the process on other scores.

    Args:
      apart: [n, n] distances.
      scores: [n].

    Returns:
      The process with the same hyperparameters.
    """
    covariance = self.signal**2 * np.exp(-apart / self.length)
    covariance += self.noise**2 * np.eye(len(scores))
    return self._replace(scores=scores, inverse=np.linalg.inv(covariance))

  def predict(self, apart: np.ndarray) -> Prediction:
    """Predicts recipes.

    Args:
      apart: [N, n] distances from those with a score.

    Returns:
      Their posterior.
    """
    between = self.signal**2 * np.exp(-apart / self.length)
    mean = self.level + between @ self.inverse @ (self.scores - self.level)
    variance = self.signal**2 - np.einsum('ij,jk,ik->i', between, self.inverse, between)
    return Prediction(mean, np.sqrt(np.maximum(variance, 1e-12)))
