"""What every setting does to accuracy, estimated from all trials at once: Bayesian linear
regression of log-odds on the settings, family by family.

The log-odds of a family's items are taken to be a sum of one function per parameter: a level for
each choice, a parabola for a number; of one per pair of parameters of an axis, one of which is a
choice, since an axis is what may act together (an update rule has learning rates of its own); and
of what changing an axis costs on average, since most changes of a good recipe lose. Log-odds,
because what helps one family by half helps little where another change has brought the family down,
and nothing falls below 0 or rises above 1. A trial's step from its anchors is then linear in the
difference of their features, with normal weights (ridge), so the posterior has a closed form and a
few trials that each change several axes already say something about each of them.

A parameter named after a family (`solution_style.unit_conversion`) is expected to move that family
a lot and the others little. So its effect shows in the accuracy of its own family even where the
trial's other changes hide it overall.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from aevo_jax.config.parameter import Parameter
from aevo_jax.meta_agent.encoding import Encoder

# Standard deviations in log-odds. Those marked * are of overall accuracy; of a family's they are
# larger by 1 / sqrt(its share of the items), so that independent families add up to them.
PRIOR_SD = 0.12  # * of a weight: how much a setting is expected to do
OWN_SD = 1.0  # the same of a choice named after a family, to that family
OWN_NUMBER_SD = 0.6  # of a number named after a family: amounts move less than kinds
FOREIGN_SD = 0.1  # and to another family
SEED_SD = 0.02  # * between seeds of one recipe, beside the items' luck
DOUBT_SD = (
  1.0  # of a family's step on the external set, where only dev is known and dev is not believed
)
# * of what a sum of effects leaves out, times the root of the number of axes that are changed
MISFIT_SD = 0.08


class Count(NamedTuple):
  """Items of a family, and how many were right."""

  correct: int
  total: int

  @property
  def log_odds(self) -> float:
    """With half an item added on each side, so that none is infinite."""
    return math.log((self.correct + 0.5) / (self.total - self.correct + 0.5))

  @property
  def variance(self) -> float:
    """Of the log-odds, by the items' luck."""
    return 1 / (self.correct + 0.5) + 1 / (self.total - self.correct + 0.5)


class Trial(NamedTuple):
  """before, after: overlays of the anchors and the trial. anchors: by family, all anchors of
  `before` together, `replicates` of them, which all trials with the same `before` share. external:
  families whose counts are of the external set. worth: of a step on dev in external score, of the
  families where that is not 1.
  """

  before: Mapping[str, Any]
  after: Mapping[str, Any]
  counts: Mapping[str, Count]
  anchors: Mapping[str, Count]
  replicates: int
  external: frozenset[str] = frozenset()
  worth: Mapping[str, float] = MappingProxyType({})

  def weight(self, family: str) -> float:
    """What the family's measured step is multiplied by."""
    return 1.0 if family in self.external else self.worth.get(family, 1.0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return 1 / (1 + np.exp(-x))


@dataclasses.dataclass(frozen=True)
class Effects:
  """The posterior of all weights, of F families with f weights each, from n trials.

  The normal prior is conditioned on the trials (Rasmussen & Williams 2006, eq. 2.11 f.), which
  takes a matrix of n x n instead of f x f: a covariance is that of the prior less what `seen` says,
  and a draw is one from the prior, moved by what it got wrong of the trials (Matheron's rule).

  Attributes:
    encoder: of the search space. levels: [F], the standing recipe's log-odds. shares: [F] of the
      items.
    means: [F, f]. prior: [F, f] standard deviations. seen: [F, n, f], W X P with the design X [n,
      f], the prior's covariance P and whitening W.
    whitening: [F, n, n], inverse of the Cholesky factor of the trials' covariance. design: [n, f].
      noise: [F, n, n], Cholesky factor of the trials' own part of it.
  """

  encoder: Encoder
  levels: np.ndarray
  shares: np.ndarray
  means: np.ndarray
  prior: np.ndarray
  seen: np.ndarray
  whitening: np.ndarray
  design: np.ndarray
  noise: np.ndarray

  def overall(self, steps: np.ndarray) -> np.ndarray:
    """[...]: the overall accuracy that the standing recipe gains if its families' log-odds move by
    steps [..., F].
    """
    return (_sigmoid(self.levels + steps) - _sigmoid(self.levels)) @ self.shares

  def gains(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the standing recipe gains in overall accuracy by each of some steps [N, f]: [N] at the
    posterior mean, and [N] standard deviations to first order.
    """
    means, deviations = steps @ self.means.T, np.sqrt(np.maximum(self.variances(steps), 0.0))
    spread = (
      _sigmoid(self.levels + means + deviations) - _sigmoid(self.levels + means - deviations)
    ) / 2
    return self.overall(means), np.linalg.norm(self.shares * spread, axis=-1)

  def variances(self, steps: np.ndarray) -> np.ndarray:
    """[N, F] of the log-odds by which steps [N, f] move each family."""
    return (np.square(steps) @ np.square(self.prior).T) - np.square(self.seen @ steps.T).sum(
      axis=1
    ).T

  def draw_steps(self, steps: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, N, F]: by what steps [N, f] move the log-odds of each family, drawn from the
    posterior jointly.
    """
    scaled, seen = steps * self.prior[:, None, :], self.seen @ steps.T
    covariance = scaled @ scaled.transpose(0, 2, 1) - seen.transpose(0, 2, 1) @ seen
    # Differences of large numbers: what rounding leaves below zero is taken for zero.
    values, vectors = np.linalg.eigh(covariance)
    roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    drawn = (
      roots @ rng.standard_normal((len(roots), len(steps), count))
      + (self.means @ steps.T)[:, :, None]
    )
    return drawn.transpose(2, 1, 0)

  def draws(self, rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, F, f] weights, from the posterior."""
    weights = self.prior * rng.standard_normal((count, *self.prior.shape))
    of_family = weights.transpose(1, 0, 2)  # [F, count, f]
    luck = rng.standard_normal((len(self.prior), count, len(self.design))) @ self.noise.transpose(
      0, 2, 1
    )
    surprise = (of_family @ self.design.T + luck) @ self.whitening.transpose(0, 2, 1)
    return self.means + weights - (surprise @ self.seen).transpose(1, 0, 2)


def _prior(encoder: Encoder, family: str, families: Iterable[str], share: float) -> np.ndarray:
  """[f] standard deviations of the weights for one family."""
  others, general = set(families) - {family}, PRIOR_SD / math.sqrt(share)

  def deviation(parameter: Parameter) -> float:
    named = parameter.selector.rpartition('.')[2]
    own = OWN_NUMBER_SD if parameter.kind in ('float', 'int') else OWN_SD
    return own if named == family else FOREIGN_SD if named in others else general

  single = np.asarray([deviation(p) for p in encoder.parameters])
  return np.concatenate([[general], single[encoder.owners].max(axis=1)])


def fit(encoder: Encoder, trials: Iterable[Trial], standing: Mapping[str, Count]) -> Effects:
  """The posterior after some trials.

  Args:
    encoder: of the search space and the defaults.
    standing: by family, what the standing recipe got right. Every trial has counts of the same
      families.
  """
  trials = list(trials)
  codes = lambda overlays: np.asarray([encoder.codes(o) for o in overlays]).reshape(
    -1, len(encoder.parameters)
  )
  design = encoder.differences(codes(t.before for t in trials), codes(t.after for t in trials))
  total = sum(count.total for count in standing.values())
  shares = (
    np.asarray([count.total / total for count in standing.values()])
    if total
    else np.full(len(standing), 1 / len(standing))
  )
  parts = []
  for family, share in zip(standing, shares):
    # The luck of each standing recipe's anchors is estimated along with the weights, since all who
    # are compared with them share it.
    names = [(family in t.external, repr(sorted(t.before.items()))) for t in trials]
    luck = {
      name: t.anchors[family].variance + SEED_SD**2 / share / t.replicates
      for name, t in zip(names, trials)
    }
    weight = np.asarray([t.weight(family) for t in trials])
    own = [
      w**2 * t.counts[family].variance
      + (SEED_SD**2 + MISFIT_SD**2 * row[0]) / share
      + DOUBT_SD**2 * (w != 1)
      for w, t, row in zip(weight, trials, design)
    ]
    shared = np.outer(weight, weight) * np.asarray(
      [[luck[a] * (a == b) for b in names] for a in names]
    ).reshape(len(trials), len(trials))
    noise = shared + np.diag(own)
    prior = _prior(encoder, family, standing, share)
    steps = weight * np.asarray(
      [t.counts[family].log_odds - t.anchors[family].log_odds for t in trials]
    )
    spread = design * prior**2
    whitening = np.linalg.inv(np.linalg.cholesky(spread @ design.T + noise))
    seen = whitening @ spread
    parts.append((seen.T @ (whitening @ steps), prior, seen, whitening, np.linalg.cholesky(noise)))
  means, priors, seen, whitening, noise = (np.asarray(part) for part in zip(*parts))
  return Effects(
    encoder,
    np.asarray([count.log_odds for count in standing.values()]),
    shares,
    means,
    priors,
    seen,
    whitening,
    design,
    noise,
  )
