"""What the arbiter tells of the tests of a round, computed from item results.

tests/evaluation/test_told.py looks for other scores that would have told the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aevo_jax.stats import coarse, tracking
from aevo_jax.stats.gain_test import Answers
from aevo_jax.stats.tracking import Gains, Rows

# trial -> family -> '0110...', right answers in the order of the items
Bits = Mapping[str, Mapping[str, str]]


def told(dev: Bits, external: Bits, question: Mapping[str, Any], *, decimals: int) -> Rows:
  """Computes the rows of a round as they leave the arbiter.

  Args:
    dev: of every trial that the question names.
    external: of the same trials.
    question: 'rounds' (names of the trials of each judged round, the last is the latest), 'start'
      (replicates of the starting recipe), 'transfer', 'calibration_rounds', 'seed', 'gain_p' and
      'slope_p'.
    decimals: of released scores.

  Returns:
    stream -> row of `tracking.measure`, rounded.
  """
  answers = {trial: _answers(dev[trial], external[trial]) for trial in dev}

  def of(names: Sequence[str]) -> dict[str, dict[str, Answers]]:
    return {name: answers[name] for name in names}

  rounds = [tracking.of_answers(of(names)) for names in question['rounds']]
  latest = [name for name in question['rounds'][-1] if name not in question['start']]
  rows = tracking.measure(
    rounds,
    calibration_rounds=question['calibration_rounds'],
    seed=question['seed'],
    gains=Gains(of(question['start']), of(latest), question['transfer']),
  )
  return coarse.rows(
    rows, gain_p=question['gain_p'], slope_p=question['slope_p'], decimals=decimals
  )


def bits(results: Sequence, verifier: str) -> dict[str, str]:
  """Writes item results as one string of 0 and 1 for each family.

  Args:
    results: `scoring.ItemResult` of every item of a set.
    verifier: the comparison of answers that counts.

  Returns:
    family -> its items in their order, sorted by family.
  """
  marks: dict[str, list[str]] = {}
  for result in results:
    marks.setdefault(result.family, []).append('1' if result.right(verifier) else '0')
  return {family: ''.join(of_family) for family, of_family in sorted(marks.items())}


def _answers(dev: Mapping[str, str], external: Mapping[str, str]) -> dict[str, Answers]:
  return {family: Answers(_marks(dev[family]), _marks(external[family])) for family in dev}


def _marks(text: str) -> np.ndarray:
  return np.frombuffer(text.encode(), np.uint8) - ord('0')
