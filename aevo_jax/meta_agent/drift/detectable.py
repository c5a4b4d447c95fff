"""What the verdicts of a campaign could detect, before anything is spent.

The figures are those of the tests' own formulas (`stats.gain_test`, `stats.slope_test`,
`drift.ranks`) under stated assumptions, at the last planned round: accuracies of 1/2, where items
and seeds are noisiest; seeds and what differs between the sets as on the micro base; items whose
luck all trials share as in simulations. A real round's verdicts have the figures of its own data.
"""

import dataclasses
import math

from scipy import special

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.drift import levels, ranks
from aevo_jax.meta_agent.drift.levels import Levels
from aevo_jax.stats import gain_test, slope_test
from aevo_jax.stats.gain_test import Gain

# In log-odds: between seeds of a recipe, by external alone, between the recipes of a round.
SEED_SD = 0.085
TRANSFER_SD = 0.05
RECIPE_SD = 0.5
# Of the whole set's score between recipes, of which families share a part; and of a score that
# somebody else gives: byte-identical submissions differed by .01 on the public board.
OVERALL_SD = 0.3
SUBMISSION_SD = 0.04
# Share of an item's variance that is a trial's own.
OWN_ITEMS = 0.3
# By which a step in log-odds moves an accuracy of 1/2.
_SCALE = 0.25
# A slope that fell from 1 by more than this had turned around entirely.
_FULL_TURN = 2.0
# Ranks of noisy scores never correlate more strongly against each other.
_AGAINST = -0.95


@dataclasses.dataclass(frozen=True)
class Outlook:
  """What is detected with `reversal.power`; None where nothing is.

  Attributes:
    dev_gain: gain on dev of one stream, in accuracy, of which nothing arrives on external.
    slope_drop: by which external per dev fell from 1 since the calibration rounds.
    correlation: of dev and external within rounds, the same in all of them.
    streams: that are judged.
  """

  dev_gain: float | None
  slope_drop: float | None
  correlation: float | None
  streams: int

  @property
  def nothing(self) -> bool:
    """Whether no flaw of any kind could be seen."""
    return self.dev_gain is None and self.slope_drop is None and self.correlation is None


def outlook(constitution: Constitution, families: int, *, manual: bool) -> Outlook:
  """Computes what a campaign could detect.

  Args:
    constitution: of the campaign.
    families: that dev tells apart.
    manual: whether scores are handed in: of the whole set, for `release.per_round` trials a round.

  Returns:
    The outlook.
  """
  rules = constitution.reversal
  budget = constitution.budget
  names = ['overall'] if manual else ['overall', *(f'family{k}' for k in range(families))]
  fixed = levels.fix(
    rules,
    round_=budget.rounds,
    planned_rounds=budget.rounds,
    streams=names,
    with_gains=not manual,
  )
  trials = min(budget.workers, constitution.release.per_round) if manual else budget.workers
  parts = 1 if manual else families
  items = (constitution.dev_set.items // parts, constitution.external_set.items // parts)
  weakest = None
  if trials > 1:
    weakest = ranks.detectable((trials,) * budget.rounds, rules, fixed)
    if weakest is not None and weakest < _AGAINST:
      weakest = None
  return Outlook(
    dev_gain=_gain(constitution, fixed, trials, families, items),
    slope_drop=_drop(constitution, fixed, trials, items, manual=manual),
    correlation=weakest,
    streams=fixed.streams,
  )


def _gain(
  constitution: Constitution, fixed: Levels, trials: int, families: int, items: tuple[int, int]
) -> float | None:
  """The dev gain of a family that all trials share and of which nothing arrives."""
  replicates = constitution.budget.noise_seeds
  if fixed.gain_p is None or replicates < 2 or min(items) < gain_test.LEAST_ITEMS:
    return None
  transfer = constitution.reversal.transfer
  left = 1 / trials + 1 / replicates
  own = OWN_ITEMS * _SCALE
  dev_items = left * own / items[0]
  difference_items = left * own / items[1] + transfer**2 * dev_items
  dev_seeds = left * (SEED_SD * _SCALE) ** 2
  difference_seeds = left * (((1 - transfer) * SEED_SD) ** 2 + TRANSFER_SD**2) * _SCALE**2
  pooled = families * (replicates - 1)

  def error(of_items: float, of_seeds: float) -> tuple[float, float]:
    total = of_items + of_seeds
    spread = of_items**2 / max(items[0] // 2 - 1, 1) + of_seeds**2 / pooled
    return math.sqrt(total), total**2 / spread

  dev_error, dev_freedom = error(dev_items, dev_seeds)
  difference, freedom = error(difference_items, difference_seeds)
  seed = (SEED_SD * _SCALE) ** 2
  luck = seed / math.sqrt(seed + 2 * own / items[0])
  gain = Gain(1.0, 0.0, 0.0, dev_error, difference, freedom, dev_freedom, luck, transfer)
  found = gain_test.minimum_detectable_gain(gain, fixed.gain_p, constitution.reversal.power)
  # From 1/2 nothing gains more than the other half.
  return found if found <= 0.5 else None


def _drop(
  constitution: Constitution, fixed: Levels, trials: int, items: tuple[int, int], *, manual: bool
) -> float | None:
  """The drop of a slope that was 1 in the calibration rounds."""
  rules = constitution.reversal
  before = rules.calibration_rounds
  after = constitution.budget.rounds - before
  freedom = [rounds * (trials - 1) - 1 for rounds in (before, after)]
  if fixed.slope_p is None or min(freedom) < slope_test.LEAST_FREEDOM:
    return None
  luck = OWN_ITEMS / _SCALE * (1 / items[0] + 1 / items[1])
  residual = TRANSFER_SD**2 + luck + manual * SUBMISSION_SD**2
  spread = OVERALL_SD if manual else RECIPE_SD
  variances = [residual / (spread**2 * (n + 1)) for n in freedom]
  total = sum(variances)
  welch = total**2 / sum(v**2 / n for v, n in zip(variances, freedom, strict=True))
  quantiles = special.stdtrit(welch, 1 - fixed.slope_p) + special.stdtrit(welch, rules.power)
  drop = math.sqrt(total) * float(quantiles)
  return drop if drop <= _FULL_TURN else None


def sentence(found: Outlook, power: float) -> str:
  """Says in words what could be seen.

  Args:
    found: the outlook.
    power: with which it is detected.

  Returns:
    One line.
  """
  parts = [
    _part(found.dev_gain, 'dev of one family that gained {:.3f} and external nothing'),
    _part(found.slope_drop, 'a slope of external on dev that fell from 1 by {:.2f}'),
    _part(found.correlation, 'ranks of dev and external that correlate at {:.2f}'),
  ]
  seen = [part for part in parts if part]
  if not seen:
    return f'NOTHING with power {power:g}: no verdict would say that dev stopped tracking external'
  text = f'with power {power:g}: ' + '; '.join(seen)
  if found.dev_gain is None:
    text += '; NOT a flaw of dev that all trials of a round share, as with the standing recipe'
  return text


def _part(value: float | None, words: str) -> str:
  return '' if value is None else words.format(value)


def fixes(constitution: Constitution, families: int, *, manual: bool) -> list[str]:
  """Names the changes, one at a time, after which a flaw that all trials share could be detected.

  Args:
    constitution: under which it is not.
    families: that dev tells apart.
    manual: see `outlook`.

  Returns:
    Bindings with what they would show; empty where none of those tried helps.
  """
  found = []
  for section, field, values in _changes(constitution):
    for value in values:
      part = dataclasses.replace(getattr(constitution, section), **{field: value})
      changed = dataclasses.replace(constitution, **{section: part})
      seen = outlook(changed, families, manual=manual)
      if seen.dev_gain is not None:
        found.append(f'{section}.{field} = {value} (a dev gain of {seen.dev_gain:.2f})')
        break
  if manual:
    seen = outlook(constitution, families, manual=False)
    if seen.dev_gain is not None:
      found.append(
        "campaign.arbiter = 'local', which scores a private set of every family "
        f'(a dev gain of {seen.dev_gain:.2f})'
      )
  return found


def _changes(constitution: Constitution) -> list[tuple[str, str, list[int]]]:
  budget = constitution.budget
  return [
    ('budget', 'noise_seeds', [2, 3, 5, 8]),
    ('budget', 'rounds', [budget.rounds + k for k in (1, 2, 4, 8)]),
    ('budget', 'workers', [4, 8, 16]),
    ('dev_set', 'items', [constitution.dev_set.items * k for k in (2, 5, 20)]),
    ('external_set', 'items', [constitution.external_set.items * k for k in (2, 5, 20)]),
  ]
