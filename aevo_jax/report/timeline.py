"""The reversal timeline: dev and external by family and round, with verdicts and revisions.

Plain values for the template. External means are those of all trials once the scores are revealed;
before that, of the released ones.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from aevo_jax.campaign.decisions import arms
from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.drift.trust import ALARMS, DEV, OVERALL
from aevo_jax.meta_agent.policy import Policy

SUPPORTED = 'revision supported'
NOT_SUPPORTED = 'revision not supported'
NOT_TESTED = 'could not have been tested'
NOT_SEEN = 'could not have been seen'
NOT_YET = 'not tested yet'
# Earlier versions compared the means of explorers, which rewards an arm that changes less.
EARLIER = 'not tested: an earlier version compared the means of explorers'

_WITHOUT_TEST = (
  (NOT_SUPPORTED, arms.SAME_RECIPE),
  (NOT_SUPPORTED, arms.NO_RECIPE),
  (NOT_SEEN, arms.NOT_SEEN),
)

External = Callable[[TrialState, str], float | None]


@dataclasses.dataclass(frozen=True)
class Look:
  """One stream after one round.

  Attributes:
    round: the round's number.
    dev: mean accuracy over the trials of the round, those with a known external score where there
      are any; None without trials.
    external: mean over the same trials; None where no score is known.
    verdict: the recorded fields, None in round 0.
    trust: trust in dev, by the policy that followed.
    worth: worth of a step of dev, likewise.
  """

  round: int
  dev: float | None
  external: float | None
  verdict: Mapping | None
  trust: float
  worth: float

  @property
  def alarm(self) -> bool:
    """Whether the verdict is one that may change an objective."""
    return self.verdict is not None and self.verdict['verdict'] in ALARMS

  @property
  def statistic(self) -> str:
    """The statistic in words.

    Returns:
      For example 'p = 0.0012 (slope, 32 trials)'; '' in round 0.
    """
    verdict = self.verdict
    if verdict is None:
      return ''
    if verdict['e_value'] is None:
      value = f'p = {verdict["p_value"]:.2g}'
    else:
      value = f'e = {verdict["e_value"]:.2g}'
    return f'{value} ({verdict["test"].replace("_", " ")}, {verdict["n"]} trials)'

  @property
  def detectable(self) -> str:
    """What the tests of the round could have detected, in words.

    Returns:
      For example 'detectable: dev gain of 0.14, slope drop of 0.40'.
    """
    found = detectable(self.verdict)
    parts = [f'{effect.replace("_", " ")} of {value:.2f}' for effect, value in found.items()]
    return f'detectable: {", ".join(parts)}' if parts else 'nothing detectable yet'


def detectable(verdict: Mapping | None) -> dict[str, float]:
  """Collects what a verdict's tests could have detected.

  Args:
    verdict: the recorded fields; those of earlier versions have the nearest test's alone.

  Returns:
    Effect -> its size, of the tests that could detect one; see `reversal.Verdict`.
  """
  if verdict is None:
    return {}
  found = verdict.get('detectable')
  if found is None:
    found = {verdict['effect']: verdict['minimum_detectable_effect']}
  return {effect: value for effect, value in found.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Revision:
  """A policy that changed what dev is worth.

  Attributes:
    round: the first round under the new objectives.
    before: sentences about the objectives before.
    after: sentences about the objectives after.
    reasons: of the policy, as far as they concern the revision.
    outcome: one of the constants above.
    result: the comparison at the look, see `arbiter.arm_result`; None without one.
  """

  round: int
  before: tuple[str, ...]
  after: tuple[str, ...]
  reasons: tuple[str, ...]
  outcome: str
  result: Mapping | None

  @property
  def measured(self) -> str:
    """The comparison in words, '' without one."""
    result = self.result
    if result is None:
      return ''
    if 'over_standing' not in result:
      return (
        f'{result["difference"]:+.3f} on external, {result["revised"]} revised against '
        f'{result["control"]} control trials, p = {result["p_value"]:.3f}'
      )
    detectable = 'no difference could have been significant'
    if result['detectable'] is not None:
      detectable = f'a difference of {result["detectable"]:.3f} could have been seen'
    return (
      f'the recipe of the new objectives gained {result["difference"]:+.3f} on external over that '
      f'of the old ones ({result["revised"]} against {result["control"]} fresh runs) and '
      f'{result["over_standing"]:+.3f} over the standing recipe ({result["standing"]} anchors), '
      f'p = {result["p_value"]:.3f}; the least p of so few runs is {result["least_p_value"]:.3f}, '
      f'and {detectable}'
    )


def looks(
  state: CampaignState, policies: Mapping[int, Policy], external: External
) -> dict[str, list[Look]]:
  """Builds the timeline of every stream.

  Args:
    state: a campaign with verdicts.
    policies: round -> its policy.
    external: gives a trial's score in a stream as far as it may be known.

  Returns:
    Stream -> its looks by round, families first and 'overall' last.
  """
  families: set[str] = set()
  for streams in state.concordance.values():
    families.update(streams)
  families.discard(OVERALL)
  rounds = [round_ for round_ in sorted(state.verdicts) if state.of_round(round_)]
  timeline: dict[str, list[Look]] = {}
  for stream in (*sorted(families), OVERALL):
    for round_ in rounds:
      look = _look(state, policies, external, stream, round_)
      timeline.setdefault(stream, []).append(look)
  return timeline


def _look(
  state: CampaignState,
  policies: Mapping[int, Policy],
  external: External,
  stream: str,
  round_: int,
) -> Look:
  after = policies.get(round_ + 1, policies[round_])
  all_dev = []
  known_dev = []
  known_external = []
  for trial in state.of_round(round_):
    dev = _dev_accuracy(trial, stream)
    if dev is None:
      continue
    all_dev.append(dev)
    score = external(trial, stream)
    if score is not None:
      known_dev.append(dev)
      known_external.append(score)
  return Look(
    round=round_,
    # Means over the same trials: the best on dev are released first.
    dev=_mean(known_dev or all_dev),
    external=_mean(known_external),
    verdict=state.verdicts[round_].get(stream),
    trust=after.trust.get(DEV, {}).get(stream, 1.0),
    worth=after.objectives.get(stream, 1.0),
  )


def _dev_accuracy(trial: TrialState, stream: str) -> float | None:
  if trial.dev is None:
    return None
  proportion = trial.dev['by_family'].get(stream)
  if stream == OVERALL:
    proportion = trial.dev['overall']
  return None if proportion is None else proportion['accuracy']


def revisions(
  state: CampaignState, policies: Mapping[int, Policy], constitution: Constitution
) -> list[Revision]:
  """Finds every change of objectives, with the result of its control arm.

  Args:
    state: the campaign.
    policies: round -> its policy.
    constitution: gives the level of the control arm's test.

  Returns:
    The revisions by round.
  """
  rows = []
  for round_, policy in sorted(policies.items()):
    previous = policies.get(round_ - 1)
    if previous is None or policy.objectives == previous.objectives:
      continue
    result = _result(state, policies, round_)
    reasons = tuple(r for r in policy.reasons if ': dev is ' in r or 'control arm' in r)
    outcome = _outcome(result, reasons, constitution.control.alpha)
    if result is None and policy.look and state.finished is None:
      outcome = NOT_YET
    rows.append(
      Revision(
        round=round_,
        before=_objectives(previous.objectives),
        after=_objectives(policy.objectives),
        reasons=reasons,
        outcome=outcome,
        result=result,
      )
    )
  return rows


def _result(state: CampaignState, policies: Mapping[int, Policy], revised: int) -> Mapping | None:
  """The comparison at the look that a revision named."""
  policy = policies[revised]
  if not policy.look:
    return _last_test(state, policies, revised)
  if policies[revised - 1].look == policy.look:
    return None  # the arms are those of an earlier revision
  return state.attributions.get(policy.look)


def _last_test(
  state: CampaignState, policies: Mapping[int, Policy], revised: int
) -> Mapping | None:
  """Of an earlier version: the last test before the next revision, or of all."""
  result = None
  for round_ in range(revised, max(policies) + 1):
    if round_ > revised and policies[round_].objectives != policies[round_ - 1].objectives:
      break
    if not policies[round_].look:
      result = state.attributions.get(round_, result)
  return result


def _outcome(result: Mapping | None, reasons: Sequence[str], alpha: float) -> str:
  if result is None:
    for outcome, begins in _WITHOUT_TEST:
      if any(reason.startswith(begins) for reason in reasons):
        return outcome
    return NOT_TESTED
  if 'over_standing' not in result:
    return EARLIER
  if result['least_p_value'] > alpha:
    return NOT_SEEN
  if result['p_value'] <= alpha:
    return SUPPORTED
  return NOT_SUPPORTED


def _objectives(objectives: Mapping[str, float]) -> tuple[str, ...]:
  """A sentence for each family with an objective that is not dev, or one that there is none."""
  if not objectives:
    return ('every family: raise dev, promote on external',)
  return tuple(f'{family}: {_objective(worth)}' for family, worth in sorted(objectives.items()))


def _objective(worth: float) -> str:
  if worth < 0:
    return f'lower dev while external rises (a step of dev counts {worth:+.2f})'
  if worth == 0:
    return 'external only'
  return f'dev counts {worth:.2f}'


def _mean(values: Sequence[float]) -> float | None:
  if not values:
    return None
  return sum(values) / len(values)
