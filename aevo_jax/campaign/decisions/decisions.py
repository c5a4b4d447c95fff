"""The controller's decisions, as pure functions of the folded state.

The audit calls the same functions on the ledger it reads. Each takes the ledger's facts and returns
what follows from them: a trial's input, which scores are released, the verdicts, what the final
trains. None reads a clock or a file.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.campaign.trial.gate import full_recipe
from aevo_jax.campaign.trial.spec import TrialSpec, trial_seed
from aevo_jax.config.constitution import Constitution
from aevo_jax.config.statements import parse_statements
from aevo_jax.evaluation.servers import arbiter
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.drift import levels as levels_lib
from aevo_jax.meta_agent.drift import reversal
from aevo_jax.meta_agent.drift.levels import Levels
from aevo_jax.meta_agent.llm import agent as llm_agent
from aevo_jax.meta_agent.policy import ANCHOR, Policy
from aevo_jax.meta_agent.scores import OVERALL, DevScore
from aevo_jax.stats import tracking

FINAL = -1  # the round number of final retrainings in trial records
# Items that a score that was handed in is taken to count: its scorer tells no number.
_SUBMITTED_ITEMS = 1000


class Retraining(NamedTuple):
  """One retraining of the final.

  Attributes:
    trial: its name.
    worker: its number.
    recipe: 'starting' or 'promoted'.
    overlay: text over the substrate's default recipe.
    seed_name: the name that its seed is made of.
  """

  trial: str
  worker: int
  recipe: str
  overlay: str
  seed_name: str


@dataclasses.dataclass(frozen=True)
class TrialConditions:
  """What all trials of a campaign share; see `TrialSpec`.

  Attributes:
    recipe: the substrate's default recipe.
    store: root of the substrate store.
    substrate: the stored object.
    base_digest: logical digest of the base.
    threads: of each worker.
    cache: compilation cache, '' for none.
    locked: whether workers confine themselves.
  """

  recipe: str
  store: str
  substrate: str
  base_digest: str
  threads: int
  cache: str
  locked: bool


def trial_spec(
  trial: TrialState, constitution: Constitution, conditions: TrialConditions
) -> TrialSpec:
  """Builds a trial's whole input.

  Args:
    trial: as assigned.
    constitution: of the campaign.
    conditions: of the campaign.
  """
  return TrialSpec(
    trial=trial.trial,
    store=conditions.store,
    substrate=conditions.substrate,
    base_digest=conditions.base_digest,
    constitution=constitution.digest(),
    recipe=full_recipe(parse_statements(trial.overlay), conditions.recipe),
    overlay=trial.overlay,
    seed=trial.seed,
    size=constitution.objective.size,
    tokens=constitution.budget.trial_tokens,
    steps=constitution.budget.trial_steps,
    threads=conditions.threads,
    axes=constitution.search_space.axes,
    cache=conditions.cache,
    locked=conditions.locked,
  )


def tie_seed(campaign_seed: int, round_: int) -> int:
  """Derives the seed of the coin that orders trials of equal external score.

  Args:
    campaign_seed: of the campaign.
    round_: the round.
  """
  return trial_seed(campaign_seed, f'ties{round_}')


def to_release(
  trials: Sequence[TrialState],
  per_round: int,
  objectives: Mapping[str, float] = MappingProxyType({}),
  *,
  manual: bool = False,
) -> list[str]:
  """Chooses whose external scores a round asks for.

  Args:
    trials: of the round.
    per_round: the quota.
    objectives: family -> what dev is worth; a family whose objective is no longer dev is left out
      of the dev score as far as it is worth nothing.
    manual: nobody has an external score before it is asked for.

  Returns:
    The anchors first, then the best by dev.
  """
  if manual:
    scored = [t for t in trials if t.dev is not None]
  else:
    scored = [t for t in trials if t.external_scored]

  def order(trial: TrialState) -> tuple:
    value = DevScore.from_json(trial.dev).valued(objectives)
    return (trial.axis != ANCHOR, -value, trial.worker)

  return [t.trial for t in sorted(scored, key=order)[:per_round]]


def dev_streams(trials: Sequence[TrialState]) -> dict[str, dict[str, float]]:
  """Collects the dev accuracies that the detector compares with the external scores.

  Args:
    trials: of a round.

  Returns:
    stream -> trial -> accuracy, of the trials that have both scores.
  """
  by_stream: dict[str, dict[str, float]] = {}
  for trial in trials:
    if trial.has_external and trial.dev is not None:
      for stream, part in DevScore.from_json(trial.dev).streams().items():
        by_stream.setdefault(stream, {})[trial.trial] = part.accuracy
  return dict(sorted(by_stream.items()))


def question(
  state: CampaignState, round_: int, constitution: Constitution, campaign_seed: int
) -> dict[str, Any]:
  """Builds what the arbiter is asked about a round: how far external followed dev so far.

  Args:
    state: of the campaign, with the round's scores and its levels.
    round_: the round.
    constitution: of the campaign.
    campaign_seed: of the campaign.

  Returns:
    See `told.told`. The replicates of the starting recipe are all trials of any round that ran it.
  """
  rounds = []
  for k in range(1, round_ + 1):
    rounds.append([t.trial for t in state.of_round(k) if t.has_external and t.dev is not None])
  start = []
  overlays = {trial.overlay for trial in state.of_round(0)}
  for trial in state.trials.values():
    scored = trial.has_external and trial.dev is not None
    if scored and trial.overlay in overlays and 0 <= trial.round <= round_:
      start.append(trial.trial)
  levels = state.thresholds[round_]
  return {
    'round': round_,
    'rounds': rounds,
    'start': sorted(start),
    'transfer': constitution.reversal.transfer,
    'calibration_rounds': constitution.reversal.calibration_rounds,
    'seed': tie_seed(campaign_seed, round_),
    'gain_p': levels['gain_p'],
    'slope_p': levels['slope_p'],
  }


def submitted_concordance(
  state: CampaignState, round_: int, constitution: Constitution, campaign_seed: int
) -> dict[str, dict]:
  """Computes the rows of a round whose external scores were handed in, of rounds 1 to it.

  Args:
    state: of the campaign.
    round_: the round.
    constitution: of the campaign.
    campaign_seed: of the campaign.

  Returns:
    'overall' -> row of `tracking.measure`, since such scores are of the whole set.
  """
  rounds = []
  for k in range(1, round_ + 1):
    trials = state.of_round(k)
    scores = {t.trial: t.submitted for t in trials if t.submitted is not None}
    dev = {OVERALL: dev_streams(trials).get(OVERALL, {})}
    items = [t.dev['overall']['total'] for t in trials if t.dev is not None]
    rounds.append(
      tracking.of_accuracies(dev, {OVERALL: scores}, max(items, default=None), _SUBMITTED_ITEMS)
    )
  return tracking.measure(
    rounds,
    calibration_rounds=constitution.reversal.calibration_rounds,
    seed=tie_seed(campaign_seed, round_),
  )


def submitted_control(state: CampaignState, last: int) -> dict | None:
  """Tests a control arm as the arbiter does, on scores that were handed in, in thousandths.

  Args:
    state: of the campaign.
    last: the round whose revision is tested.

  Returns:
    See `arbiter.arm_result`.
  """
  rounds = []
  for trials_of_arms in controlled(state, last):
    proportions = {}
    for arm, trials in trials_of_arms.items():
      proportions[arm] = {t: _in_thousandths(state.trials[t].submitted) for t in trials}
    rounds.append(proportions)
  return arbiter.arm_result(rounds)


def _in_thousandths(score: float) -> dict[str, int]:
  return {'correct': round(1000 * score), 'total': 1000}


def judged_rounds(state: CampaignState, last: int) -> list[dict]:
  """Lists the statistics of the rounds that count.

  Args:
    state: of the campaign.
    last: the last round of them.

  Returns:
    Those of rounds 1 to `last`: in round 0 every trial runs the same recipe.
  """
  return [state.concordance.get(k, {}) for k in range(1, last + 1)]


def fix_levels(state: CampaignState, round_: int, constitution: Constitution) -> dict[str, Any]:
  """Computes the levels that will judge a round.

  Args:
    state: of the campaign, with the dev scores of round 0.
    round_: the round to be judged.
    constitution: of the campaign.

  Returns:
    The fields of `levels.Levels`.
  """
  streams = {OVERALL}
  manual = state.started['settings'].get('arbiter') == 'manual'
  if not manual:  # scores that are handed in are of the whole set
    for trial in state.of_round(0):
      if trial.dev is not None:
        streams.update(DevScore.from_json(trial.dev).streams())
  levels = levels_lib.fix(
    constitution.reversal,
    round_=round_,
    planned_rounds=constitution.budget.rounds,
    streams=streams,
    with_gains=not manual,
  )
  return dataclasses.asdict(levels)


def verdicts(state: CampaignState, round_: int, constitution: Constitution) -> dict[str, dict]:
  """Computes the verdicts on a round, at the levels that were fixed before it.

  Args:
    state: of the campaign, with the round's concordance.
    round_: the round.
    constitution: of the campaign.

  Returns:
    stream -> fields of `reversal.Verdict`.
  """
  rounds = judged_rounds(state, round_)
  if not any(rounds):  # one trial a round is ranked against nothing
    return {}
  spoken = reversal.verdicts(rounds, constitution.reversal, Levels(**state.thresholds[round_]))
  return {stream: dataclasses.asdict(verdict) for stream, verdict in sorted(spoken.items())}


def arms(state: CampaignState, round_: int) -> dict[str, list[str]] | None:
  """Finds the trials of a round with a control arm.

  Args:
    state: of the campaign.
    round_: the round.

  Returns:
    arm -> its trials that have an external score; None of another round. None also where a language
    model was to choose both arms and one question went unanswered: then the arms differ by who
    chose them.
  """
  for purpose in (llm_agent.POLICY, llm_agent.CONTROL):
    if (round_, purpose) in state.fell_back:
      return None
  assignments = policy_lib.from_json(state.policies[round_]['policy']).assignments
  trials: dict[str, list[str]] = {'revised': [], 'control': []}
  for trial in state.of_round(round_):
    arm = assignments[trial.worker].arm
    if trial.has_external and arm in trials:
      trials[arm].append(trial.trial)
  return trials if all(trials.values()) else None


def controlled(state: CampaignState, last: int) -> list[dict[str, list[str]]]:
  """Finds the arms of all rounds that test the same revision as a round does.

  Args:
    state: of the campaign.
    last: that round, the last of them.

  Returns:
    arm -> trials of each such round, oldest first.
  """
  rounds = []
  for round_ in range(last, 0, -1):
    trials_of_arms = arms(state, round_)
    if trials_of_arms is None:
      break
    rounds.append(trials_of_arms)
    # The round in which the revision began.
    if _objectives(state, round_) != _objectives(state, round_ - 1):
      break
  return rounds[::-1]


def _objectives(state: CampaignState, round_: int) -> Mapping[str, float]:
  return policy_lib.from_json(state.policies[round_]['policy']).objectives


def promotion(policy: Policy, following: Policy) -> dict[str, Any]:
  """Builds the payload of a round's promotion record.

  Args:
    policy: of the round.
    following: the next one.
  """
  return {
    'round': policy.round,
    'promoted': following.standing,
    'before': policy.standing,
    'reasons': list(following.reasons),
  }


def out_of_time(
  state: CampaignState, constitution: Constitution, *, manual: bool = False
) -> dict[str, Any] | None:
  """Decides whether another round and the final would end within budget.wall_clock_s.

  They are reckoned at the pace of the slowest round so far, in seconds a trial. All times are the
  ledger's.

  Args:
    state: of the campaign.
    constitution: of the campaign.
    manual: the final retrains the promoted recipe alone.

  Returns:
    The payload of `budget_exhausted` where they would not, None where they would.
  """
  budget = constitution.budget
  last = max(state.round_ended, default=None)
  if not budget.wall_clock_s or last is None:
    return None
  pace = 0.0
  for round_, end in state.round_ended.items():
    seconds = end - state.round_ended.get(round_ - 1, 0.0)
    pace = max(pace, seconds / max(1, len(state.of_round(round_))))
  recipes = 1 if manual else 2
  final = recipes * budget.final_seeds - sum(t.done for t in state.of_round(FINAL))
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
  """Lists the final's trials: starting and promoted recipe on fresh seeds each.

  Args:
    promoted: bindings of the promoted recipe.
    seeds: of each recipe.
    manual: there is no final set, so the promoted recipe alone is retrained.
  """
  overlays = {'starting': '', 'promoted': policy_lib.render_overlay(promoted)}
  if manual:
    del overlays['starting']
  trials = []
  for recipe, overlay in overlays.items():
    for k in range(seeds):
      worker = len(trials)
      trials.append(Retraining(f'{recipe}{k}', worker, recipe, overlay, f'final{k}|{recipe}'))
  return trials
