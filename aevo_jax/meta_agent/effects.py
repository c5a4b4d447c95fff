"""The effects of settings on accuracy, estimated from all trials at once.

Bayesian linear regression of log-odds on the settings, family by family. The log-odds of a family's
items are taken to be a sum of these terms:

- one function per parameter: a level for each choice, a parabola for a number;
- one per pair of parameters of an axis, one of which is a choice, since an axis is what may act
  together (an update rule has learning rates of its own);
- what changing an axis costs on average, since most changes of a good recipe lose.

Log-odds, because what helps one family by half helps little where another change has brought the
family down, and nothing falls below 0 or rises above 1. A trial's step from its anchors is then
linear in the difference of their features, with normal weights (ridge). So the posterior has a
closed form, and a few trials that each change several axes already say something about each of
them.

A parameter named after a family (`solution_style.unit_conversion`) is expected to move that family
a lot and the others little. So its effect shows in the accuracy of its family even where the
trial's other changes hide it overall.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from aevo_jax.config.parameter import Parameter
from aevo_jax.meta_agent.encoding import Encoder

# Standard deviations in log-odds. Those marked * are of overall accuracy; of a family's they are
# larger by 1 / sqrt(its share of the items), so that independent families add up to them.
# * of a weight: how much a setting is expected to do.
PRIOR_SD = 0.12
# The same of a choice named after a family, to that family.
OWN_SD = 1.0
# Of a number named after a family: amounts move less than kinds.
OWN_NUMBER_SD = 0.6
# And to another family.
FOREIGN_SD = 0.1
# * between seeds of one recipe, beside the items' luck.
SEED_SD = 0.02
# Of a family's step on the external set, where only dev is known and dev is not believed.
DOUBT_SD = 1.0
# * of what a sum of effects leaves out, times the root of the number of axes that are changed.
MISFIT_SD = 0.08


class Count(NamedTuple):
  """Items of a family, and how many of them are right."""

  correct: int
  total: int

  @property
  def log_odds(self) -> float:
    """Log-odds of the accuracy; half an item is added on each side, so that it is finite."""
    return math.log((self.correct + 0.5) / (self.total - self.correct + 0.5))

  @property
  def variance(self) -> float:
    """Variance of the log-odds by the items' luck."""
    return 1 / (self.correct + 0.5) + 1 / (self.total - self.correct + 0.5)


class Trial(NamedTuple):
  """One trial beside its anchors.

  Attributes:
    before: overlay of the anchors.
    after: overlay of the trial.
    counts: of the trial, by family.
    anchors: by family, all anchors of `before` together, which all trials with the same `before`
      share.
    replicates: how many anchors those are.
    external: families whose counts are of the external set.
    worth: of a step on dev in external score, of the families where that is not 1.
  """

  before: Mapping[str, Any]
  after: Mapping[str, Any]
  counts: Mapping[str, Count]
  anchors: Mapping[str, Count]
  replicates: int
  external: frozenset[str] = frozenset()
  worth: Mapping[str, float] = MappingProxyType({})

  def weight(self, family: str) -> float:
    """Finds what a family's measured step is multiplied by.

    Args:
      family: its name.

    Returns:
      1 where the step is external, or dev is believed.
    """
    return 1.0 if family in self.external else self.worth.get(family, 1.0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return 1 / (1 + np.exp(-x))


@dataclasses.dataclass(frozen=True)
class Effects:
  """The posterior of all weights, of F families with f weights each, from n trials.

  The normal prior is conditioned on the trials (Rasmussen & Williams 2006, eq. 2.12), which
  takes a matrix of n x n instead of f x f. A covariance is that of the prior less what `seen` says.
  A sample is one from the prior, moved by what it gets wrong of the trials (Matheron's rule).

  Attributes:
    encoder: of the search space.
    levels: [F], the standing recipe's log-odds.
    shares: [F] of the items.
    means: [F, f].
    prior: [F, f] standard deviations.
    seen: [F, n, f], W X P with the design X [n, f], the prior's covariance P and whitening W.
    whitening: [F, n, n], inverse of the Cholesky factor of the trials' covariance.
    design: [n, f].
    noise: [F, n, n], Cholesky factor of the trials' part of that covariance.
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
    """Computes the overall accuracy that the standing recipe gains.

    Args:
      steps: [..., F] by which the families' log-odds move.

    Returns:
      [...] gains.
    """
    return (_sigmoid(self.levels + steps) - _sigmoid(self.levels)) @ self.shares

  def gains(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes what the standing recipe gains in overall accuracy by steps of its features.

    Args:
      steps: [N, f].

    Returns:
      [N] gains at the posterior mean, and their [N] standard deviations to first order.
    """
    means = steps @ self.means.T
    deviations = np.sqrt(np.maximum(self.variances(steps), 0.0))
    above = _sigmoid(self.levels + means + deviations)
    spread = (above - _sigmoid(self.levels + means - deviations)) / 2
    return self.overall(means), np.linalg.norm(self.shares * spread, axis=-1)

  def variances(self, steps: np.ndarray) -> np.ndarray:
    """Computes the posterior variance of each family's move.

    Args:
      steps: [N, f].

    Returns:
      [N, F] variances of log-odds.
    """
    before = np.square(steps) @ np.square(self.prior).T
    return before - np.square(self.seen @ steps.T).sum(axis=1).T

  def draw_steps(self, steps: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Samples by what steps of the features move the log-odds, jointly over the steps.

    Args:
      steps: [N, f].
      rng: seeded generator.
      count: samples.

    Returns:
      [count, N, F] moves.
    """
    scaled = steps * self.prior[:, None, :]
    seen = self.seen @ steps.T
    covariance = scaled @ scaled.transpose(0, 2, 1) - seen.transpose(0, 2, 1) @ seen
    # Differences of large numbers: what rounding leaves below zero is taken for zero.
    values, vectors = np.linalg.eigh(covariance)
    roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    normal = rng.standard_normal((len(roots), len(steps), count))
    sampled = roots @ normal + (self.means @ steps.T)[:, :, None]
    return sampled.transpose(2, 1, 0)

  def draws(self, rng: np.random.Generator, count: int) -> np.ndarray:
    """Samples weights from the posterior.

    Args:
      rng: seeded generator.
      count: samples.

    Returns:
      [count, F, f] weights.
    """
    weights = self.prior * rng.standard_normal((count, *self.prior.shape))
    of_family = weights.transpose(1, 0, 2)  # [F, count, f]
    normal = rng.standard_normal((len(self.prior), count, len(self.design)))
    luck = normal @ self.noise.transpose(0, 2, 1)
    surprise = (of_family @ self.design.T + luck) @ self.whitening.transpose(0, 2, 1)
    return self.means + weights - (surprise @ self.seen).transpose(1, 0, 2)


def _prior(encoder: Encoder, family: str, families: Iterable[str], share: float) -> np.ndarray:
  """[f] standard deviations of the weights for one family."""
  others = set(families) - {family}
  general = PRIOR_SD / math.sqrt(share)

  def deviation(parameter: Parameter) -> float:
    named = parameter.selector.rpartition('.')[2]
    if named == family:
      return OWN_NUMBER_SD if parameter.kind in ('float', 'int') else OWN_SD
    return FOREIGN_SD if named in others else general

  single = np.asarray([deviation(p) for p in encoder.parameters])
  return np.concatenate([[general], single[encoder.owners].max(axis=1)])


class _Part(NamedTuple):
  """The posterior of one family; fields as in `Effects`."""

  means: np.ndarray
  prior: np.ndarray
  seen: np.ndarray
  whitening: np.ndarray
  noise: np.ndarray


def fit(encoder: Encoder, trials: Iterable[Trial], standing: Mapping[str, Count]) -> Effects:
  """Computes the posterior after some trials.

  Args:
    encoder: of the search space and the defaults.
    trials: with counts of the same families as `standing`.
    standing: by family, what the standing recipe got right.

  Returns:
    The posterior.
  """
  trials = list(trials)
  before = _codes(encoder, [trial.before for trial in trials])
  design = encoder.differences(before, _codes(encoder, [trial.after for trial in trials]))
  levels = []
  totals = np.zeros(len(standing), int)
  for i, count in enumerate(standing.values()):
    levels.append(count.log_odds)
    totals[i] = count.total
  shares = np.full(len(standing), 1 / len(standing))
  if totals.sum():
    shares = totals / totals.sum()
  parts = []
  for family, share in zip(standing, shares, strict=True):
    prior = _prior(encoder, family, standing, share)
    parts.append(_fit_family(family, share, prior, trials, design))
  stacked = _Part(*(np.asarray(arrays) for arrays in zip(*parts, strict=True)))
  return Effects(
    encoder=encoder,
    levels=np.asarray(levels),
    shares=shares,
    means=stacked.means,
    prior=stacked.prior,
    seen=stacked.seen,
    whitening=stacked.whitening,
    design=design,
    noise=stacked.noise,
  )


def _codes(encoder: Encoder, overlays: Sequence[Mapping[str, Any]]) -> np.ndarray:
  """[N, P] codes, also of no overlay."""
  codes = [encoder.codes(overlay) for overlay in overlays]
  return np.asarray(codes).reshape(-1, len(encoder.parameters))


def _fit_family(
  family: str, share: float, prior: np.ndarray, trials: Sequence[Trial], design: np.ndarray
) -> _Part:
  """The posterior of one family with some share of the items."""
  weight = np.asarray([trial.weight(family) for trial in trials])
  steps = []
  luck = []
  own = []
  for trial, w, row in zip(trials, weight, design, strict=True):
    count = trial.counts[family]
    anchors = trial.anchors[family]
    steps.append(count.log_odds - anchors.log_odds)
    luck.append(anchors.variance + SEED_SD**2 / share / trial.replicates)
    misfit = (SEED_SD**2 + MISFIT_SD**2 * row[0]) / share
    own.append(w**2 * count.variance + misfit + DOUBT_SD**2 * (w != 1))
  shared = np.outer(weight, weight) * _shared_luck(family, trials, luck)
  noise = shared + np.diag(own)
  spread = design * prior**2
  whitening = np.linalg.inv(np.linalg.cholesky(spread @ design.T + noise))
  seen = whitening @ spread
  means = seen.T @ (whitening @ (weight * np.asarray(steps)))
  return _Part(means, prior, seen, whitening, np.linalg.cholesky(noise))


def _shared_luck(family: str, trials: Sequence[Trial], luck: Sequence[float]) -> np.ndarray:
  """[n, n] covariance of trials that are compared with the same anchors.

  The luck of each standing recipe's anchors is estimated along with the weights, since all who are
  compared with them share it.
  """
  by_name: dict[tuple[bool, str], float] = {}
  names = []
  for trial, value in zip(trials, luck, strict=True):
    name = (family in trial.external, repr(sorted(trial.before.items())))
    by_name[name] = value
    names.append(name)
  covariance = np.zeros((len(trials), len(trials)))
  for i, a in enumerate(names):
    for j, b in enumerate(names):
      if a == b:
        covariance[i, j] = by_name[a]
  return covariance
