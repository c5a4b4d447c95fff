"""What the controller decides, as pure functions of the folded state; the audit calls the same
functions on the ledger it reads.

Each takes the ledger's facts and returns what follows from them: a trial's input, which scores are
released, a round's evidence, the next policy, what the final trains. None reads a clock or a file.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from aevo_jax.campaign.state import CampaignState, TrialState
from aevo_jax.campaign.trial.gate import full_recipe
from aevo_jax.campaign.trial.spec import TrialSpec, trial_seed
from aevo_jax.config.constitution import Constitution
from aevo_jax.config.statements import parse_statements
from aevo_jax.evaluation.servers import arbiter
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.drift import calibration, reversal
from aevo_jax.meta_agent.llm import agent as llm_agent
from aevo_jax.meta_agent.policy import ANCHOR, Policy
from aevo_jax.meta_agent.scores import DevScore
from aevo_jax.stats import concordance

FINAL = -1  # the round number of final retrainings in trial records


class Retraining(NamedTuple):
  """One retraining of the final: trial name, worker number, 'starting' or 'promoted', overlay text,
  and the name its seed is made of.
  """

  trial: str
  worker: int
  recipe: str
  overlay: str
  seed_name: str


def trial_spec(
  trial: TrialState,
  constitution: Constitution,
  *,
  recipe: str,
  store: str,
  substrate: str,
  base_digest: str,
  threads: int,
  cache: str,
  locked: bool,
) -> TrialSpec:
  """A trial's whole input; `recipe` is the substrate's default."""
  return TrialSpec(
    trial=trial.trial,
    store=store,
    substrate=substrate,
    base_digest=base_digest,
    constitution=constitution.digest(),
    recipe=full_recipe(parse_statements(trial.overlay), recipe),
    overlay=trial.overlay,
    seed=trial.seed,
    size=constitution.objective.size,
    tokens=constitution.budget.trial_tokens,
    steps=constitution.budget.trial_steps,
    threads=threads,
    axes=constitution.search_space.axes,
    cache=cache,
    locked=locked,
  )


def tie_seed(campaign_seed: int, round_: int) -> int:
  """Seed of the coin that orders trials of equal external score."""
  return trial_seed(campaign_seed, f'ties{round_}')


def to_release(
  trials: Sequence[TrialState],
  per_round: int,
  objectives: Mapping[str, float] = MappingProxyType({}),
  *,
  manual: bool = False,
) -> list[str]:
  """Whose external scores a round asks for: the anchors first, then the best by dev, within the
  quota. Families whose objective is no longer dev are left out of that dev score as far as it is
  not worth anything. `manual`: nobody has one before it is asked for.
  """
  scored = [t for t in trials if (t.dev is not None if manual else t.external_scored)]

  def order(trial: TrialState) -> tuple:
    value = DevScore.from_json(trial.dev).valued(objectives)
    return (trial.axis != ANCHOR, -value, trial.worker)

  return [t.trial for t in sorted(scored, key=order)[:per_round]]


def dev_streams(trials: Sequence[TrialState]) -> dict[str, dict[str, float]]:
  """Stream -> trial -> dev accuracy, of the trials that have both scores: what the detector
  compares with the external scores.
  """
  by_stream: dict[str, dict[str, float]] = {}
  for trial in trials:
    if trial.has_external and trial.dev is not None:
      for stream, part in DevScore.from_json(trial.dev).streams().items():
        by_stream.setdefault(stream, {})[trial.trial] = part.accuracy
  return dict(sorted(by_stream.items()))


def dev_item_variance(trials: Sequence[TrialState]) -> dict[str, float]:
  """Stream -> variance of a dev accuracy by the items' luck, mean over the trials that have both
  scores.
  """
  by_stream: dict[str, list[float]] = {}
  for trial in trials:
    if trial.has_external and trial.dev is not None:
      for stream, part in DevScore.from_json(trial.dev).streams().items():
        by_stream.setdefault(stream, []).append(part.item_variance)
  return {stream: sum(values) / len(values) for stream, values in sorted(by_stream.items())}


def submitted_concordance(trials: Sequence[TrialState], seed: int) -> dict[str, dict]:
  """The statistics of a round whose external scores were handed in: those are of the whole set."""
  scores = {t.trial: t.submitted for t in trials if t.submitted is not None}
  dev = {stream: scores_ for stream, scores_ in dev_streams(trials).items() if stream == 'overall'}
  return concordance.reduce_round(dev, {'overall': scores}, dev_item_variance(trials), seed)


def submitted_control(state: CampaignState, last: int) -> dict | None:
  """As the arbiter's test of a control arm, on scores that were handed in, in thousandths."""
  share = lambda t: {'correct': round(1000 * state.trials[t].submitted), 'total': 1000}
  return arbiter.arm_result(
    [
      {arm: {t: share(t) for t in trials} for arm, trials in round_.items()}
      for round_ in controlled(state, last)
    ]
  )


def judged_rounds(state: CampaignState, last: int) -> list[dict]:
  """The statistics of the rounds that count, 1 to `last`: in round 0 every trial runs the same
  recipe.
  """
  return [state.concordance.get(k, {}) for k in range(1, last + 1)]


def fix_thresholds(
  state: CampaignState, round_: int, constitution: Constitution, campaign_seed: int
) -> dict[str, Any]:
  """The thresholds that will judge a round, from the rounds before it."""
  workers = constitution.budget.workers
  if state.started['settings'].get('arbiter') == 'manual':
    workers = min(workers, constitution.release.per_round)  # nobody scores the others
  found = calibration.thresholds(
    judged_rounds(state, round_ - 1),
    constitution.reversal,
    constitution.budget.rounds,
    workers,
    trial_seed(campaign_seed, 'thresholds'),
  )
  return dataclasses.asdict(found)


def verdicts(state: CampaignState, round_: int, constitution: Constitution) -> dict[str, dict]:
  """Stream -> verdict on a round, under the thresholds that were fixed before it."""
  rounds = judged_rounds(state, round_)
  if not any(rounds):  # one trial a round is ranked against nothing
    return {}
  spoken = reversal.verdicts(
    rounds, constitution.reversal, calibration.Thresholds(**state.thresholds[round_])
  )
  return {stream: dataclasses.asdict(verdict) for stream, verdict in sorted(spoken.items())}


def arms(state: CampaignState, round_: int) -> dict[str, list[str]] | None:
  """Arm -> its trials that have an external score, of a round with a control arm; None of another.

  None also where a language model was to choose both arms and one question went unanswered: then
  the arms differ by who chose them.
  """
  if any((round_, purpose) in state.fell_back for purpose in (llm_agent.POLICY, llm_agent.CONTROL)):
    return None
  assigned = policy_lib.from_json(state.policies[round_]['policy']).assignments
  found = {
    arm: [
      t.trial for t in state.of_round(round_) if t.has_external and assigned[t.worker].arm == arm
    ]
    for arm in ('revised', 'control')
  }
  return found if all(found.values()) else None


def controlled(state: CampaignState, last: int) -> list[dict[str, list[str]]]:
  """The arms of all rounds up to `last` that test the same revision as that round does."""
  rounds = []
  for round_ in range(last, 0, -1):
    policy = policy_lib.from_json(state.policies[round_]['policy'])
    if (found := arms(state, round_)) is None:
      break
    rounds.append(found)
    if policy.objectives != policy_lib.from_json(state.policies[round_ - 1]['policy']).objectives:
      break  # the round in which the revision began
  return rounds[::-1]


def promotion(policy: Policy, following: Policy) -> dict[str, Any]:
  """The payload of a round's promotion record."""
  return {
    'round': policy.round,
    'promoted': following.standing,
    'before': policy.standing,
    'reasons': list(following.reasons),
  }


def out_of_time(
  state: CampaignState, constitution: Constitution, *, manual: bool = False
) -> dict[str, Any] | None:
  """The payload of `budget_exhausted` where another round and the final would not end within
  budget.wall_clock_s, None where they would.

  They are reckoned at the pace of the slowest round so far, in seconds a trial. All times are the
  ledger's.
  """
  budget, last = constitution.budget, max(state.round_ended, default=None)
  if not budget.wall_clock_s or last is None:
    return None
  pace = max(
    (end - state.round_ended.get(round_ - 1, 0.0)) / max(1, len(state.of_round(round_)))
    for round_, end in state.round_ended.items()
  )
  final = (1 if manual else 2) * budget.final_seeds - sum(t.done for t in state.of_round(FINAL))
  needed = pace * (budget.workers + max(0, final))
  if state.seconds + needed <= budget.wall_clock_s:
    return None
  return {
    'round': last,
    'seconds': round(state.seconds, 3),
    'needed': round(needed, 3),
    'reason': (
      f'{state.seconds:.0f} s of budget.wall_clock_s = {budget.wall_clock_s:g} are spent, '
      f'and another round with the final takes about {needed:.0f} s'
    ),
  }


def retrainings(promoted: dict[str, Any], seeds: int, *, manual: bool = False) -> list[Retraining]:
  """The final's trials: starting and promoted recipe on fresh seeds each; of a `manual` arbiter,
  who has no final set, the promoted one alone.
  """
  overlays = {'starting': '', 'promoted': policy_lib.render_overlay(promoted)}
  if manual:
    del overlays['starting']
  return [
    Retraining(f'{recipe}{k}', i * seeds + k, recipe, overlay, f'final{k}|{recipe}')
    for i, (recipe, overlay) in enumerate(overlays.items())
    for k in range(seeds)
  ]
