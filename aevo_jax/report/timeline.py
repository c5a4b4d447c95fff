"""The reversal timeline: dev and external by family and round, what the detector said of them, and
what the policy made of it.

Plain values for the template. External means are those of all trials once the scores are revealed;
before that, of the released ones.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from aevo_jax.campaign.state import CampaignState, TrialState
from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.drift.trust import ALARMS, DEV, OVERALL
from aevo_jax.meta_agent.policy import Policy

SUPPORTED, NOT_SUPPORTED, NOT_TESTED, TOO_FEW = (
  'revision supported',
  'revision not supported',
  'not tested',
  'not tested: too few trials to tell',
)


@dataclasses.dataclass(frozen=True)
class Look:
  """One stream after one round. dev, external: mean accuracy over the same trials of the round,
  those whose external score is known; None without any. verdict: the recorded fields, None in round
  0. trust: in dev, by the policy that followed. worth: of a step of dev, likewise."""

  round: int
  dev: float | None
  external: float | None
  verdict: Mapping | None
  trust: float
  worth: float

  @property
  def alarm(self) -> bool:
    return self.verdict is not None and self.verdict['verdict'] in ALARMS

  @property
  def statistic(self) -> str:
    """'p = 0.0012 (slope, 32 trials)'."""
    v = self.verdict
    if v is None:
      return ''
    value = f'e = {v["e_value"]:.2g}' if v['e_value'] is not None else f'p = {v["p_value"]:.2g}'
    return f'{value} ({v["test"].replace("_", " ")}, {v["n"]} trials)'

  @property
  def detectable(self) -> str:
    """The minimum detectable effect in words."""
    v = self.verdict
    if v is None or v['minimum_detectable_effect'] is None:
      return 'nothing detectable yet'
    return f'detectable: {v["effect"].replace("_", " ")} of {v["minimum_detectable_effect"]:.2f}'


@dataclasses.dataclass(frozen=True)
class Revision:
  """A policy that changed what dev is worth. before, after: what it said of the objectives. result:
  the control arm's test at its last round, None if there was none.
  """

  round: int
  before: tuple[str, ...]
  after: tuple[str, ...]
  reasons: tuple[str, ...]
  outcome: str
  result: Mapping | None


def looks(
  state: CampaignState,
  policies: Mapping[int, Policy],
  external: Callable[[TrialState, str], float | None],
) -> dict[str, list[Look]]:
  """Stream -> its looks, families first and 'overall' last. `external`: a trial's score in a stream
  as far as it may be known.
  """
  streams = sorted({s for v in state.concordance.values() for s in v} - {OVERALL}) + [OVERALL]
  rounds = sorted(k for k in state.verdicts if state.of_round(k))
  found: dict[str, list[Look]] = {}
  for stream in streams:
    for round_ in rounds:
      after = policies.get(round_ + 1, policies[round_])
      trials = [
        t
        for t in state.of_round(round_)
        if t.dev is not None and (stream == OVERALL or stream in t.dev['by_family'])
      ]
      # Means over the same trials: those whose dev is best are told first.
      trials = [t for t in trials if external(t, stream) is not None] or trials
      dev = [
        (t.dev['overall'] if stream == OVERALL else t.dev['by_family'][stream])['accuracy']
        for t in trials
      ]
      told = [x for t in trials if (x := external(t, stream)) is not None]
      found.setdefault(stream, []).append(
        Look(
          round_,
          _mean(dev),
          _mean(told),
          state.verdicts[round_].get(stream),
          after.trust.get(DEV, {}).get(stream, 1.0),
          after.objectives.get(stream, 1.0),
        )
      )
  return found


def revisions(
  state: CampaignState, policies: Mapping[int, Policy], constitution: Constitution
) -> list[Revision]:
  """Every change of objectives, with what its control arm showed."""
  found = []
  for round_, policy in sorted(policies.items()):
    before = policies.get(round_ - 1)
    if before is None or policy.objectives == before.objectives:
      continue
    tested = []
    for later in range(round_, max(policies) + 1):
      if later > round_ and policies[later].objectives != policies[later - 1].objectives:
        break
      if later in state.attributions:
        tested.append(later)
    result = state.attributions[tested[-1]] if tested else None
    outcome = (
      NOT_TESTED
      if result is None
      else TOO_FEW
      if result['least_p_value'] > constitution.control.alpha
      else SUPPORTED
      if result['p_value'] <= constitution.control.alpha
      else NOT_SUPPORTED
    )
    found.append(
      Revision(
        round_,
        _objectives(policy.objectives_before if policy.control else before.objectives),
        _objectives(policy.objectives),
        tuple(r for r in policy.reasons if ': dev is ' in r or 'control arm' in r),
        outcome,
        result,
      )
    )
  return found


def _objectives(objectives: Mapping[str, float]) -> tuple[str, ...]:
  """A sentence for each family whose objective is not dev, or one that says that there is none."""
  return tuple(
    f'{family}: '
    + (
      f'lower dev while external rises (a step of dev counts {worth:+.2f})'
      if worth < 0
      else 'external only'
      if worth == 0
      else f'dev counts {worth:.2f}'
    )
    for family, worth in sorted(objectives.items())
  ) or ('every family: raise dev, promote on external',)


def _mean(values: Sequence[float]) -> float | None:
  return sum(values) / len(values) if values else None
