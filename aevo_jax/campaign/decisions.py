"""What the controller decides, as pure functions of the folded state; the audit calls the same
functions on the ledger it reads.

Each takes the ledger's facts and returns what follows from them: a trial's input, which scores are
released, a round's evidence, the next policy, what the final trains. None reads a clock or a file.
"""

import collections
import dataclasses
import json
import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from aevo_jax.campaign import proxy_target
from aevo_jax.campaign.state import CampaignState, TrialState
from aevo_jax.campaign.trial.gate import default_values, full_recipe
from aevo_jax.campaign.trial.spec import TrialSpec, trial_seed
from aevo_jax.config.constitution import Constitution
from aevo_jax.config.statements import parse_statements
from aevo_jax.evaluation.servers import arbiter
from aevo_jax.meta_agent import anonymize
from aevo_jax.meta_agent import evidence as evidence_lib
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.agents import (
  best_of_n,
  frozen,
  keep_or_discard,
  random_search,
  statistical,
  tpe,
)
from aevo_jax.meta_agent.drift import calibration, reversal, trust
from aevo_jax.meta_agent.llm import agent as llm_agent
from aevo_jax.meta_agent.llm.dialogue import Dialogue
from aevo_jax.meta_agent.policy import ANCHOR, Policy
from aevo_jax.stats import concordance
from aevo_jax.stats.intervals import wilson

AGENTS = {
  'statistical': statistical.decide,
  'random': random_search.decide,
  'best_of_n': best_of_n.decide,
  'tpe': tpe.decide,
  'frozen': frozen.decide,
  'keep_or_discard': keep_or_discard.decide,
}
LLM = 'llm'  # the agent that is no function of the evidence alone
HEEDING = (
  'statistical',
  LLM,
)  # agents whose decisions follow `Policy.objectives`; the others are peers that no verdict changes
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
  order = sorted(
    scored, key=lambda t: (t.axis != ANCHOR, -evidence_lib.valued(t.dev, objectives), t.worker)
  )
  return [t.trial for t in order[:per_round]]


def dev_streams(trials: Sequence[TrialState]) -> dict[str, dict[str, float]]:
  """Stream -> trial -> dev accuracy, of the trials that have both scores: what the detector
  compares with the external scores.
  """
  scored = {
    t.trial: evidence_lib.streams(t.dev) for t in trials if t.has_external and t.dev is not None
  }
  names = sorted({s for score in scored.values() for s in score})
  return {s: {t: score[s]['accuracy'] for t, score in scored.items() if s in score} for s in names}


def dev_item_variance(trials: Sequence[TrialState]) -> dict[str, float]:
  """Stream -> variance of a dev accuracy by the items' luck, mean over the trials that have both
  scores.
  """
  found = collections.defaultdict(list)
  for trial in trials:
    if trial.has_external and trial.dev is not None:
      for stream, proportion in evidence_lib.streams(trial.dev).items():
        found[stream].append(evidence_lib.item_variance(proportion))
  return {stream: sum(values) / len(values) for stream, values in sorted(found.items())}


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


def round_evidence(
  state: CampaignState, round_: int, policy: Policy, constitution: Constitution
) -> dict[str, Any]:
  """The evidence of a round, from what is known when it ends (later rounds and the final are left
  out); `policy` with what its workers chose.
  """
  groups, target = (
    collections.defaultdict(list),
    proxy_target.assess(state, round_, constitution)
    if constitution.objective.target == 'proxies'
    else None,
  )
  for trial in state.trials.values():
    if trial.axis == ANCHOR and trial.dev is not None and 0 <= trial.round <= round_:
      scores = evidence_lib.streams(trial.dev)
      groups[trial.overlay].append(
        scores | {'overall': {'accuracy': target.score(trial)}} if target else scores
      )
  by_stream = {
    s: [[score[s]['accuracy'] for score in group] for group in groups.values()]
    for s in next(iter(groups.values()), [{}])[0]
  }
  floor = constitution.promotion.seed_sd_floor
  noise = evidence_lib.seed_noise(by_stream.pop('overall', []), floor) | {
    'by_family': {
      f: evidence_lib.seed_noise(found, floor)['seed_sd'] for f, found in by_stream.items()
    }
  }
  ranks = state.ranks.get(round_, {})
  rows = []
  for t in state.of_round(round_):
    assignment = policy.assignments[t.worker]
    # A score that somebody else handed in has no known number of items.
    interval = (
      None
      if t.released_families is None
      else _interval(t.released, constitution.external_set.items)
    )
    rows.append(
      evidence_lib.trial_row(
        trial=t.trial,
        worker=t.worker,
        axis=t.axis,
        arm=assignment.arm,
        changes=assignment.changes,
        status=t.status,
        cause=t.cause,
        dev=t.dev,
        external=t.released,
        external_interval=interval,
        external_by_family=_released(t.released_families),
        external_rank=ranks.get(t.trial),
        cost=_cost(t),
      )
    )
  collected = evidence_lib.collect(
    round_=round_,
    standing=policy.standing,
    trials=rows,
    noise=noise,
    verdicts=state.verdicts.get(round_, {}),
    attribution=state.attributions.get(round_),
    llm=state.llm_cost(round_),
  )
  return target.entered(collected) if target else collected


def _cost(trial: TrialState) -> dict[str, float]:
  """What a trial claims to have cost."""
  return {k: trial.claim.get(k, 0) for k in ('tokens', 'steps', 'flops')} | {
    'seconds': round(sum(trial.claim.get('seconds', {}).values()), 1)
  }


def _interval(accuracy: float, items: int) -> list[float]:
  """The Wilson interval of a released, rounded accuracy."""
  return [round(x, 4) for x in wilson(round(accuracy * items), items)]


def _released(released: dict[str, list] | None) -> dict[str, dict] | None:
  """Family -> accuracy, total and interval of what was released as [accuracy, total]."""
  if released is None:
    return None
  return {
    f: {'accuracy': accuracy, 'total': total}
    | dict(zip(('low', 'high'), _interval(accuracy, total)))
    for f, (accuracy, total) in sorted(released.items())
  }


def evidence_text(evidence: dict[str, Any]) -> str:
  """The evidence file, whose SHA-256 the ledger holds."""
  return json.dumps(evidence, indent=1, sort_keys=True) + '\n'


def next_policy(
  history: Sequence[dict],
  policy: Policy,
  constitution: Constitution,
  *,
  recipe: str,
  agent: str,
  campaign_seed: int,
  dialogue: Callable[[int, str], Dialogue] | None = None,
) -> Policy:
  """What the named agent makes of the evidence of all rounds so far; `recipe` is the substrate's
  default, `dialogue` (round, purpose) -> whom 'llm' asks.

  The latest verdicts first revise what dev is worth, for agents that heed it. In the rounds after a
  revision some workers go on as if there had been none: the control arm.
  """
  history = proxy_target.rescored(history)
  defaults, seed, rules = (
    default_values(recipe),
    trial_seed(campaign_seed, f'agent{policy.round}'),
    constitution.in_round(policy.round + 1),
  )

  def decide(
    objectives: Mapping[str, float], trusted: Mapping[str, Any], seen: Sequence[dict], purpose: str
  ) -> Policy:
    asked = dataclasses.replace(policy, objectives=dict(objectives), trust=dict(trusted))
    if agent == LLM:
      return llm_agent.decide(
        seen, asked, rules, defaults, seed, dialogue(policy.round + 1, purpose)
      )
    return anonymize.decide(AGENTS[agent], seen, asked, rules, defaults, seed)

  if agent not in HEEDING:
    return decide({}, {}, history, llm_agent.POLICY)
  revision = trust.revise(
    policy.objectives, policy.trust, history[-1]['verdicts'], _families(history[-1])
  )
  revised = revision.objectives != policy.objectives
  control = constitution.control.rounds if revised else max(policy.control - 1, 0)
  before = policy.objectives if revised and not policy.control else policy.objectives_before
  following = dataclasses.replace(
    decide(revision.objectives, revision.trust, history, llm_agent.POLICY),
    parent=policy.digest(),
    trust=revision.trust,
    objectives=revision.objectives,
    objectives_before=before if control else {},
    control=control,
  )
  reasons = (*revision.reasons, *following.reasons)
  if control and policy.round < constitution.budget.rounds:
    unaware = [
      {
        **evidence,
        'verdicts': {},
        'attribution': None,
        'trials': [{**t, 'arm': ''} for t in evidence['trials']],
      }
      for evidence in history
    ]
    following, sentence = _with_control_arm(
      following, decide(before, {}, unaware, llm_agent.CONTROL), constitution.control.workers, seed
    )
    reasons = (*reasons, sentence)
  return dataclasses.replace(following, reasons=reasons)


def _families(evidence: Mapping[str, Any]) -> list[str]:
  """That dev is told by."""
  return sorted(
    {f for t in evidence['trials'] if t['dev'] is not None for f in t['dev']['by_family']}
  )


def _with_control_arm(
  following: Policy, old: Policy, workers: int, seed: int
) -> tuple[Policy, str]:
  """The policy with `workers` explorers taken over by what the old objectives would have run.

  Which ranks of the two lists go to which arm is drawn at random: the first explorers of a list are
  its best ones, and had the revision changed nothing, the permutation test would still be exact.
  """
  anchors = [a for a in following.assignments if a.axis == ANCHOR]
  explorers, former = ([a for a in p.assignments if a.axis != ANCHOR] for p in (following, old))
  ranks = min(len(explorers), len(former))
  count = min(workers, ranks - 1)
  if count < 1:
    return following, 'no control arm: too few workers explore'
  control = set(random.Random(seed).sample(range(ranks), count))
  arms = [
    dataclasses.replace(former[k], arm='control')
    if k in control
    else dataclasses.replace(a, arm='revised')
    for k, a in enumerate(explorers)
  ]
  return dataclasses.replace(following, assignments=(*anchors, *arms)), (
    f'control arm: {count} of {len(arms)} explorers go on under the objectives before the '
    'revision, so that the revision itself is tested'
  )


def with_choices(
  policy: Policy,
  constitution: Constitution,
  *,
  recipe: str,
  workers_choose: str,
  dialogue: Callable[[int, str], Dialogue],
) -> Policy:
  """The policy with the bindings that its workers chose, if they do."""
  if workers_choose == 'policy':
    return policy
  return llm_agent.choose(
    policy,
    constitution.in_round(policy.round),
    default_values(recipe),
    lambda purpose: dialogue(policy.round, purpose),
  )


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
