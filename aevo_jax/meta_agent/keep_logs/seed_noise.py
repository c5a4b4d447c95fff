"""The standard deviation between seeds, from what a keep-or-discard log has of it.

Runs of the same code measure it. Discarded changes do where most of them did nothing, which a
person has to say: changes that did harm make the estimate too large and the judgement stricter.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from aevo_jax.meta_agent.drift.tables.table_file import TableError
from aevo_jax.meta_agent.keep_logs.keep_log import KeepLog, Try

# Of the median absolute deviation beside the standard deviation, for normal scores (Rousseeuw and
# Croux 1993): so many runs with the one are worth one with the other.
_EFFICIENCY = 0.3674
_FEWEST_PAIRS = 5


@dataclasses.dataclass(frozen=True)
class SeedNoise:
  """Noise between seeds.

  Attributes:
    deviation: the standard deviation of a score between seeds, in the units of the score.
    freedom: degrees of freedom of its estimate; None where it was given.
    source: where it comes from, in words.
  """

  deviation: float
  freedom: float | None
  source: str


def given(deviation: float) -> SeedNoise:
  """Takes a standard deviation that a person knows.

  Args:
    deviation: of one score between seeds.
  """
  return SeedNoise(deviation, None, '--seed_sd')


def of_replicates(log: KeepLog) -> SeedNoise | None:
  """Estimates it from runs with the same commit or the same description.

  Args:
    log: of any length.

  Returns:
    The pooled standard deviation within such runs; None where no two runs are of the same code.

  Raises:
    TableError: all of them have the same score, so their seed was not changed.
  """
  groups = _same_code(log.tries)
  squares = 0.0
  freedom = 0
  for scores in groups:
    squares += float(np.var(scores)) * len(scores)
    freedom += len(scores) - 1
  if not freedom:
    return None
  if not squares:
    raise TableError(
      'runs of the same commit or description have the same score to the last digit, so they had '
      'the same seed; repeat the standing recipe with other seeds and give --seed_sd'
    )
  runs = sum(map(len, groups))
  return SeedNoise(
    math.sqrt(squares / freedom),
    freedom,
    f'{runs} runs of {len(groups)} commits or descriptions that come more than once',
  )


def _same_code(tries: Sequence[Try]) -> list[list[float]]:
  """Scores of runs of the same code, two or more each; every run is in one group at most."""
  groups = []
  used: set[int] = set()
  for identity in ('commit', 'description'):
    by_value: dict[str, list[Try]] = {}
    for each in tries:
      value = ' '.join(getattr(each, identity).lower().split())
      if value and each.line not in used:
        by_value.setdefault(value, []).append(each)
    for same in by_value.values():
      if len(same) > 1:
        used.update(each.line for each in same)
        groups.append([each.score for each in same])
  return groups


def of_discards(log: KeepLog) -> SeedNoise:
  """Estimates it from discarded changes, most of which are assumed to have done nothing.

  Discards that stand next to each other, with nothing kept between them, are differences from the
  same code, and under the assumption differ by noise alone: sd = median |y_i - y_j| / (.6745
  sqrt 2), over pairs that share no run. The median is not moved by a minority that did harm.

  Args:
    log: of any length.

  Returns:
    The standard deviation, with the degrees of freedom of a sample of the same precision.

  Raises:
    TableError: too few pairs, or more than half of them are equal.
  """
  differences = []
  last: Try | None = None
  for each in log.tries:
    if each.kept:
      last = None
    elif last is None:
      last = each
    else:
      differences.append(abs(each.score - last.score))
      last = None
  if len(differences) < _FEWEST_PAIRS:
    raise TableError(
      f'{len(differences)} pairs of discarded runs stand side by side, and --noise_from=discards '
      f'needs {_FEWEST_PAIRS}; repeat the standing recipe with other seeds and give --seed_sd'
    )
  median = float(np.median(differences))
  if not median:
    raise TableError(
      'more than half of the discarded runs have the same score as the one beside them, so nothing '
      'of their spread is left; give --seed_sd'
    )
  deviation = median / float(np.sqrt(2) * stats.norm.ppf(0.75))
  return SeedNoise(
    deviation,
    _EFFICIENCY * len(differences),
    f'{len(differences)} pairs of discards, assumed to have done nothing in most cases',
  )
