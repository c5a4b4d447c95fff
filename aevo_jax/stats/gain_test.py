"""The gain test: dev gained over the starting recipe, and the external score did not follow.

It sees what no comparison within a round can: an exploit that enters with the standing recipe moves
all trials of a round together. So the trials of one round are compared with replicates of the
starting recipe, on the same items.

For each stream, the trials i of the round are weighted by what they gained on one half of dev's
items, w_i = max(0, A_i - A_0) / sum, and the gain is measured on the other half: dev gain D =
sum w_i (B_i - B_0), external gain E = sum w_i (E_i - E_0). The halves are swapped and the two
results averaged (cross-fitting), so a trial that was lucky on its items is not believed for it.
A lucky seed is luck on both halves. So what seeds are expected to have added to the weighted
trials, if seeds and items were all that raised them, is taken off D: the seeds' share of the
variance of A_i times sum w_i (A_i - A_0), though no more than twice what seeds alone would show
(expected normal order statistics, Blom 1958), since real gains are no luck.
The claim "dev gained, and external by less than `transfer` of it" is an intersection-union test
(Berger 1982): both

    z1 = (E - transfer D) / se(E - transfer D)    far below 0
    z2 = D / se(D)                                far above 0

and p is the larger of the two tail probabilities of Student's t. If either part is untrue, p is
below a level at most with that level's probability, whatever the other part does.

Where external is easier or harder than dev, the same step in log-odds moves it less. `transfer` is
then taken of what that step would give there, if that is less: levels that drift are no flaw.

Both errors have two parts. What the choice of items does is taken from the items themselves, each
with its own difference between the weighted trials and the starting recipe; items that are hard for
all cancel. What training seeds do is taken from the replicates of the starting recipe: the spread
of E - transfer D (of D) between them beyond their items. It is pooled over families on the scale
of log-odds, p (1 - p), weighted by how well each family shows it. Degrees of freedom follow by
Satterthwaite's rule. Replicates are what the power hangs on: there must be two at least.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

# Seed noise that is assumed at least, in log-odds: replicates may agree by chance.
LEAST_SEED_SD = 0.03
# Of a family, on dev and external: fewer have no halves to speak of.
LEAST_ITEMS = 8
# Seed noise for which families are weighted; any value gives a valid estimate.
_WEIGHED_FOR_SD = 0.085


class Answers(NamedTuple):
  """Right answers of some trials to the items of one family, as 0 and 1.

  Attributes:
    dev: [trials, items].
    external: [trials, items of the external set].
  """

  dev: np.ndarray
  external: np.ndarray


class Gain(NamedTuple):
  """What a round's trials gained over the starting recipe, in accuracy.

  Attributes:
    p: of the claim that dev gained and external gained less than `transfer` of it; 1 where no trial
      gained on dev.
    dev: gain of the trials that gain on dev, D above, less what seeds alone would show; nan where
      there is none.
    external: the same trials' gain on the external set, E above.
    dev_error: standard error of D.
    error: standard error of E - transfer D.
    freedom: degrees of freedom of `error`.
    dev_freedom: degrees of freedom of `dev_error`.
    luck: what was taken off D for seeds.
    transfer: share of D that was expected to arrive.
  """

  p: float
  dev: float
  external: float
  dev_error: float
  error: float
  freedom: float
  dev_freedom: float
  luck: float
  transfer: float


class _Variance(NamedTuple):
  """An estimated variance, and the variance of that estimate."""

  value: float
  of_value: float


class _Seeds(NamedTuple):
  """Seed noise in squared log-odds: of D and of E - transfer D."""

  dev: _Variance
  difference: _Variance


def gains(
  start: Mapping[str, Answers], trials: Mapping[str, Answers], transfer: float
) -> dict[str, Gain]:
  """Tests one round, by family and overall (the mean of families, where there are several).

  Args:
    start: family -> answers of two or more replicates of the starting recipe.
    trials: family -> answers of the round's trials, on the same items.
    transfer: share of a dev gain that must arrive on the external set.

  Returns:
    stream -> test. Empty where there are fewer than two replicates, no trial, or fewer than
    `LEAST_ITEMS` items in a family.
  """
  for family, each in start.items():
    items = min(each.dev.shape[1], each.external.shape[1])
    if len(each.dev) < 2 or not len(trials[family].dev) or items < LEAST_ITEMS:
      return {}
  everything = list(start.values())
  tests = {}
  for family in start:
    tests[family] = _test(everything, [start[family]], [trials[family]], transfer)
  if len(start) > 1:
    after = [trials[family] for family in start]
    tests['overall'] = _test(everything, everything, after, transfer)
  return tests


def minimum_detectable_gain(gain: Gain, level: float, power: float) -> float:
  """Computes the dev gain that is found where external gains nothing.

  It is the larger of what the two parts of the claim need, error (t_{1 - level} + t_power), by
  `transfer` for E - transfer D, and what is taken off for luck.

      >>> gain = Gain(1.0, 0.1, 0.0, 0.02, 0.01, 1e6, 1e6, 0.0, 0.5)
      >>> round(minimum_detectable_gain(gain, 0.001, 0.8), 4)
      0.0786

  Args:
    gain: a test, which gives errors and degrees of freedom.
    level: p value at which the test alarms.
    power: probability of an alarm, where the other part is certain.

  Returns:
    A gain of accuracy; it may exceed 1.
  """

  def needed(error: float, freedom: float) -> float:
    quantiles = special.stdtrit(freedom, 1 - level) + special.stdtrit(freedom, power)
    return float(error * quantiles)

  return gain.luck + max(
    needed(gain.error, gain.freedom) / gain.transfer, needed(gain.dev_error, gain.dev_freedom)
  )


class _Measured(NamedTuple):
  """What the mean of some families shows of a round.

  Attributes:
    weights: [trials], the mean of both halves'.
    chosen_for: gain on the half that the weights come from.
    dev: D, with luck.
    dev_items: its variance by items.
    external: E.
    external_items: its variance by items.
  """

  weights: np.ndarray
  chosen_for: float
  dev: float
  dev_items: float
  external: float
  external_items: float


def _measure(start: Sequence[Answers], trials: Sequence[Answers]) -> _Measured | None:
  """Measures the gains; None where no trial gained on a half of dev."""
  families = len(start)
  weights = []
  dev = dev_items = chosen_for = 0.0
  for half in (0, 1):
    gained = _gained(start, trials, half)
    if not gained.any():
      return None
    chosen = gained / gained.sum()
    weights.append(chosen)
    chosen_for += float(chosen @ gained) / 2
    for before, after in zip(start, trials, strict=True):
      differences = _differences(before.dev[:, 1 - half :: 2], after.dev[:, 1 - half :: 2], chosen)
      dev += differences.mean() / 2 / families
      dev_items += _variance_of_mean(differences) / 4 / families**2
  mean_weights = (weights[0] + weights[1]) / 2
  external = external_items = 0.0
  for before, after in zip(start, trials, strict=True):
    differences = _differences(before.external, after.external, mean_weights)
    external += differences.mean() / families
    external_items += _variance_of_mean(differences) / families**2
  return _Measured(mean_weights, chosen_for, dev, dev_items, external, external_items)


def _test(
  everything: Sequence[Answers],
  start: Sequence[Answers],
  trials: Sequence[Answers],
  transfer: float,
) -> Gain:
  """The test of the mean of some families; seed noise is pooled over `everything`."""
  found = _measure(start, trials)
  if found is None:
    nan = float('nan')
    return Gain(1.0, nan, nan, nan, nan, nan, nan, nan, transfer)
  # How much of the seed noise of one trial is left in weighted trials less replicates.
  left = float(found.weights @ found.weights) + 1 / len(start[0].dev)
  dev_scale = sum(_scale(each.dev) ** 2 for each in start) / len(start) ** 2
  scale = sum(_scale(each.external) ** 2 for each in start) / len(start) ** 2
  seeds = _seed_noise(everything, transfer).dev
  luck = _luck(found.weights, found.chosen_for, seeds.value * dev_scale, _half_items(start))
  dev = found.dev - luck
  expected = transfer * min(1.0, _same_step(start, dev))
  least_items = min(each.dev.shape[1] // 2 for each in start) - 1
  of_dev = _total(_by_items(found.dev_items, least_items), _times(seeds, left * dev_scale))
  of_difference = _total(
    _by_items(found.external_items + expected**2 * found.dev_items, least_items),
    _times(_seed_noise(everything, expected).difference, left * scale),
  )
  error = np.sqrt(of_difference.value)
  dev_error = np.sqrt(of_dev.value)
  freedom = 2 * of_difference.value**2 / of_difference.of_value
  dev_freedom = 2 * of_dev.value**2 / of_dev.of_value
  p = max(
    special.stdtr(freedom, (found.external - expected * dev) / error),
    special.stdtr(dev_freedom, -dev / dev_error),
  )
  return Gain(
    *map(float, (p, dev, found.external, dev_error, error, freedom, dev_freedom, luck, expected)),
  )


def _same_step(start: Sequence[Answers], dev: float) -> float:
  """What external would gain by dev's step in log-odds, by what dev gains in accuracy."""
  if not dev > 0:
    return 1.0
  before = float(np.mean([_share(each.dev) for each in start]))
  after = min(before + dev, 1 - (1 - before) / 1000)
  if after - before < 1e-9:
    return 1.0
  outside = float(np.mean([_share(each.external) for each in start]))
  moved = special.expit(special.logit(outside) + special.logit(after) - special.logit(before))
  return float(moved - outside) / (after - before)


def _gained(start: Sequence[Answers], trials: Sequence[Answers], half: int) -> np.ndarray:
  """[trials] gains in mean accuracy on every other item of dev, 0 where there is none."""
  gained = np.zeros(len(trials[0].dev))
  for before, after in zip(start, trials, strict=True):
    gained += after.dev[:, half::2].mean(axis=1) - before.dev[:, half::2].mean()
  return np.maximum(gained / len(start), 0.0)


def _luck(
  weights: np.ndarray, chosen_for: float, seed_variance: float, item_variance: float
) -> float:
  """What seeds are expected to have added to the trials that were chosen for their gain."""
  ranks = np.arange(1, len(weights) + 1)
  expected = special.ndtri((ranks - 0.375) / (len(weights) + 0.25))
  total = np.sqrt(seed_variance + item_variance)
  deviations = min(chosen_for / total, 2 * float(np.sort(weights) @ expected))
  return max(deviations, 0.0) * seed_variance / total


def _half_items(start: Sequence[Answers]) -> float:
  """Variance of a trial's mean accuracy on half of dev's items, by what they do to it alone."""
  return 2 * sum(_own_item_variance(each.dev) for each in start) / len(start) ** 2


def _differences(before: np.ndarray, after: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """[items]: the weighted trials' answers less the mean answer of the starting recipe."""
  return weights @ after - before.mean(axis=0)


def _variance_of_mean(values: np.ndarray) -> float:
  return float(values.var(ddof=1)) / len(values)


def _share(answers: np.ndarray) -> float:
  """The accuracy, with half an item on each side."""
  return float((answers.sum() + 0.5) / (answers.size + 1))


def _scale(answers: np.ndarray) -> float:
  """p (1 - p), by which a step in log-odds moves an accuracy."""
  share = _share(answers)
  return share * (1 - share)


def _by_items(value: float, freedom: int) -> _Variance:
  return _Variance(value, 2 * value**2 / freedom)


def _total(*parts: _Variance) -> _Variance:
  return _Variance(sum(part.value for part in parts), sum(part.of_value for part in parts))


def _times(variance: _Variance, factor: float) -> _Variance:
  return _Variance(variance.value * factor, variance.of_value * factor**2)


def _seed_noise(start: Sequence[Answers], transfer: float) -> _Seeds:
  """Pools seed noise over families; see the module's docstring."""
  of_dev = []
  of_difference = []
  for each in start:
    dev = each.dev.mean(axis=1)
    external = each.external.mean(axis=1)
    dev_items = _own_item_variance(each.dev)
    external_items = _own_item_variance(each.external)
    of_dev.append((_scale(each.dev), float(dev.var(ddof=1)), dev_items))
    of_difference.append(
      (
        _scale(each.external),
        float((external - transfer * dev).var(ddof=1)),
        external_items + transfer**2 * dev_items,
      )
    )
  replicates = len(start[0].dev)
  return _Seeds(_pooled(of_dev, replicates), _pooled(of_difference, replicates))


def _own_item_variance(answers: np.ndarray) -> float:
  """Variance of one replicate's accuracy by what items do to it and not to the others."""
  return float(answers.var(axis=0, ddof=1).mean()) / answers.shape[1]


def _pooled(families: Sequence[tuple[float, float, float]], replicates: int) -> _Variance:
  """Seed variance in squared log-odds, from families' (scale, spread, item variance).

  Each family's spread less its item variance estimates scale^2 x seed variance. They are weighted
  by the inverse of the variance that the estimate has at `_WEIGHED_FOR_SD`.
  """
  total = 0.0
  weights = 0.0
  of_total = 0.0
  for scale, spread, item_variance in families:
    expected = item_variance + (scale * _WEIGHED_FOR_SD) ** 2
    weight = scale**2 / expected**2
    total += weight * (spread - item_variance)
    weights += weight * scale**2
    of_total += weight**2 * 2 * expected**2 / (replicates - 1)
  value = max(total / weights, LEAST_SEED_SD**2)
  # Satterthwaite's degrees of freedom are those at the noise that families were weighted for.
  relative = of_total / weights**2 / max(_WEIGHED_FOR_SD**2, value) ** 2
  return _Variance(value, relative * value**2)
