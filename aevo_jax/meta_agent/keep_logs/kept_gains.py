"""Kept gains beside what noise alone keeps: of each kept change, and of the whole log.

A loop that keeps whatever scores better than what stands keeps 1/2 + 1/3 + ... of its tries though
none has an effect, and its score improves all the while. Three questions are answered:

1. Which gain is larger than that of the best of as many tries without effect? Both runs of a gain
   are noisy. Holm's test over all kept changes holds the probability of naming any one wrongly.
2. How many changes would have been kept by noise alone?
3. How much of the whole improvement is beyond the luckiest of all tries? The bound needs nothing of
   the effects: y_kept - y_first <= true gain + max e - e_first, whichever try is the kept one.
"""

import dataclasses

import numpy as np

from aevo_jax.meta_agent.keep_logs import lucky_tries
from aevo_jax.meta_agent.keep_logs.keep_log import KeepLog, Try
from aevo_jax.meta_agent.keep_logs.seed_noise import SeedNoise
from aevo_jax.stats import rank_tests
from aevo_jax.stats.intervals import Interval

POWER = 0.8
# Of intervals of what noise alone does.
CONFIDENCE = 0.9


@dataclasses.dataclass(frozen=True)
class KeptGain:
  """A kept change and the one that was kept before it.

  Attributes:
    line: of the change.
    over: line of the one before.
    gain: in the score's units, positive where the change scored better.
    error: standard error of the gain: sqrt 2 times the noise of one run.
    tries: runs since the one before, this one included.
    pair_p: one-sided p value as if this had been the only try.
    p: `lucky_tries.kept_gain_p` of the gain.
    exceeds_noise: whether Holm's test over all kept changes names it.
    description: of the change.
  """

  line: int
  over: int
  gain: float
  error: float
  tries: int
  pair_p: float
  p: float
  exceeds_noise: bool
  description: str


@dataclasses.dataclass(frozen=True)
class Expected:
  """What noise alone does.

  Attributes:
    centre: the mean of a count, the median of a gain.
    interval: has it with 90%.
  """

  centre: float
  interval: Interval


@dataclasses.dataclass(frozen=True)
class Judgement:
  """A log's judgement; gains are in the score's units, positive where better.

  Attributes:
    baseline: line of the first kept run, from which gains count.
    tries: runs after it that have a score.
    kept: changes that were kept, in the order of time.
    by_noise: how many are kept if no try has an effect.
    others_by_noise: how many are kept beside those that exceed noise if these are real and no other
      try has an effect; None where none exceeds noise.
    improvement: from the baseline to the last kept run.
    improvement_by_noise: of the best of the tries over the baseline if no try has an effect.
    certain: lower confidence bound of the true improvement, 0 or more.
    not_kept: lines of runs that scored better than what stood, and were discarded.
    detectable: true gain over the score on record that question 1 finds with power .8 if it comes
      at the first try, and after as many tries as a kept change had in the median.
    median_tries: that number.
    alpha: level of questions 1 and 3.
  """

  baseline: int
  tries: int
  kept: tuple[KeptGain, ...]
  by_noise: Expected
  others_by_noise: Expected | None
  improvement: float
  improvement_by_noise: Expected
  certain: float
  not_kept: tuple[int, ...]
  detectable: tuple[float, float]
  median_tries: int
  alpha: float

  @property
  def exceeding(self) -> tuple[KeptGain, ...]:
    """The kept changes that exceed noise."""
    return tuple(each for each in self.kept if each.exceeds_noise)

  @property
  def certain_share(self) -> float:
    """The part of the improvement that is certain, 0 to 1."""
    if self.improvement <= 0:
      return 0.0
    return self.certain / self.improvement


def judge(log: KeepLog, noise: SeedNoise, alpha: float) -> Judgement:
  """Judges a log.

  Args:
    log: with two kept tries or more.
    noise: between seeds.
    alpha: probability of naming any kept change that has no effect, and of a bound that is too
      high.

  Returns:
    The judgement, a function of nothing but the arguments.
  """
  start = next(i for i, each in enumerate(log.tries) if each.kept)
  baseline = log.tries[start]
  after = log.tries[start + 1 :]
  kept = _kept(baseline, after, noise, alpha)
  last = [each for each in after if each.kept][-1]
  improvement = last.score - baseline.score
  luck = lucky_tries.best_gain_quantile(1 - alpha, len(after), noise.freedom)
  median_tries = int(np.median([each.tries for each in kept]))
  detectable = []
  for tries in (1, median_tries):
    gain = lucky_tries.detectable_gain(alpha / len(kept), POWER, tries, noise.freedom)
    detectable.append(gain * noise.deviation)
  return Judgement(
    baseline=baseline.line,
    tries=len(after),
    kept=kept,
    by_noise=_records((len(after),)),
    others_by_noise=_others(after, kept),
    improvement=improvement,
    improvement_by_noise=_best(len(after), noise),
    certain=max(improvement - luck * noise.deviation, 0.0),
    not_kept=_better_and_discarded(baseline, after),
    detectable=(detectable[0], detectable[1]),
    median_tries=median_tries,
    alpha=alpha,
  )


def _kept(
  baseline: Try, after: tuple[Try, ...], noise: SeedNoise, alpha: float
) -> tuple[KeptGain, ...]:
  """The kept changes, each over the one before."""
  standing = baseline
  tries = 0
  found = []
  for each in after:
    tries += 1
    if not each.kept:
      continue
    gain = each.score - standing.score
    ratio = gain / noise.deviation
    found.append(
      KeptGain(
        line=each.line,
        over=standing.line,
        gain=gain,
        error=float(np.sqrt(2)) * noise.deviation,
        tries=tries,
        pair_p=lucky_tries.best_gain_p(ratio, 1, noise.freedom),
        p=lucky_tries.kept_gain_p(ratio, tries, noise.freedom),
        exceeds_noise=False,
        description=each.description,
      )
    )
    standing = each
    tries = 0
  named = rank_tests.holm(np.array([each.p for each in found]), alpha)
  judged = []
  for each, exceeds in zip(found, named, strict=True):
    judged.append(dataclasses.replace(each, exceeds_noise=bool(exceeds)))
  return tuple(judged)


def _records(stretches: tuple[int, ...]) -> Expected:
  """How many of some tries noise alone keeps."""
  return Expected(*lucky_tries.records(stretches, CONFIDENCE))


def _others(after: tuple[Try, ...], kept: tuple[KeptGain, ...]) -> Expected | None:
  """`Judgement.others_by_noise`: every change that exceeds noise begins a new stretch of tries."""
  real = {each.line for each in kept if each.exceeds_noise}
  if not real:
    return None
  stretches = [0]
  for each in after:
    if each.line in real:
      stretches.append(0)
    else:
      stretches[-1] += 1
  return _records(tuple(stretches))


def _best(tries: int, noise: SeedNoise) -> Expected:
  """How much the best of some tries gains over the baseline by noise alone."""
  beyond = (1 - CONFIDENCE) / 2
  ends = []
  for level in (beyond, 0.5, 1 - beyond):
    gain = max(round(lucky_tries.best_gain_quantile(level, tries), 6), 0.0)
    ends.append(gain * noise.deviation)
  return Expected(ends[1], Interval(ends[0], ends[2]))


def _better_and_discarded(baseline: Try, after: tuple[Try, ...]) -> tuple[int, ...]:
  """Lines of runs that the rule "keep what is better" would have kept."""
  standing = baseline
  lines = []
  for each in after:
    if each.kept:
      standing = each
    elif each.score > standing.score:
      lines.append(each.line)
  return tuple(lines)
