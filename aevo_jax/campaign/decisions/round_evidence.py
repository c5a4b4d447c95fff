"""A round's evidence, from what the folded state knows when the round ends.

The audit calls the same functions on the ledger it reads. None reads a clock or a file.
"""

import collections
import dataclasses
from collections.abc import Mapping

from aevo_jax.campaign.decisions import proxy_target
from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.drift.reversal import Verdict
from aevo_jax.meta_agent.evidence import (
  PROXIES,
  Cost,
  Evidence,
  ExternalNoise,
  Noise,
  TrialEvidence,
  failures,
  total_cost,
)
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy
from aevo_jax.meta_agent.scores import OVERALL, DevScore, ReleasedScore, reliability
from aevo_jax.stats.intervals import wilson


def round_evidence(
  state: CampaignState, round_: int, policy: Policy, constitution: Constitution
) -> Evidence:
  """Builds the evidence of a round; later rounds and the final are left out.

  Args:
    state: with at least the round's records.
    round_: its number.
    policy: of the round, with what its workers chose.
    constitution: noise floor, sizes of the sets, target.

  Returns:
    The evidence.
  """
  target = None
  if constitution.objective.target == PROXIES:
    target = proxy_target.assess(state, round_, constitution)
  ranks = state.ranks.get(round_, {})
  items = constitution.external_set.items
  trials = []
  for trial in state.of_round(round_):
    assignment = policy.assignments[trial.worker]
    trials.append(_trial(trial, assignment, ranks.get(trial.trial), items))
  scored = [trial.dev for trial in trials if trial.dev is not None]
  verdicts = state.verdicts.get(round_, {})
  evidence = Evidence(
    round=round_,
    standing=policy.standing,
    trials=tuple(trials),
    noise=_noise(state, round_, target, constitution.promotion.seed_sd_floor),
    failures=failures(trials),
    reliability={'dev': reliability(scored)},
    verdicts={stream: Verdict(**fields) for stream, fields in verdicts.items()},
    attribution=state.attributions.get(round_),
    cost=total_cost(trials),
    llm=state.llm_cost(round_),
  )
  if target is None:
    return evidence
  return target.entered(evidence)


def _noise(
  state: CampaignState, round_: int, target: proxy_target.Assessment | None, floor: float
) -> Noise:
  """The spread between seeds so far; overall that of the target's scores."""
  groups: dict[str, list[dict[str, float]]] = collections.defaultdict(list)
  for trial in state.trials.values():
    if trial.axis != ANCHOR or trial.dev is None or not 0 <= trial.round <= round_:
      continue
    streams = DevScore.from_json(trial.dev).streams()
    accuracies = {stream: part.accuracy for stream, part in streams.items()}
    if target is not None:
      accuracies[OVERALL] = target.score(trial)
    groups[trial.overlay].append(accuracies)
  by_stream: dict[str, list[list[float]]] = {OVERALL: []}
  for group in groups.values():
    for stream in group[0]:
      by_stream.setdefault(stream, []).append([accuracies[stream] for accuracies in group])
  overall = Noise.pooled(by_stream.pop(OVERALL), floor)
  by_family = {f: Noise.pooled(parts, floor).seed_sd for f, parts in by_stream.items()}
  return dataclasses.replace(
    overall, by_family=by_family, external=_external_noise(state, round_, target)
  )


def _external_noise(
  state: CampaignState, round_: int, target: proxy_target.Assessment | None
) -> ExternalNoise:
  """The spread of the score that decides, of anchors and of changed recipes."""
  anchors: dict[str, list[float]] = collections.defaultdict(list)
  changed: dict[str, list[float]] = collections.defaultdict(list)
  trials = [t for t in state.trials.values() if 0 <= t.round <= round_]
  for trial in sorted(trials, key=lambda t: (t.round, t.worker)):
    score = trial.released
    if target is not None:
      score = None if trial.dev is None else target.score(trial)
    groups = anchors if trial.axis == ANCHOR else changed
    # The first trial of a change selected it, released or not: it is no look that tests.
    if trial.overlay not in groups and groups is changed:
      groups[trial.overlay] = []
    elif score is not None:
      groups[trial.overlay].append(score)
  return ExternalNoise.pooled(list(anchors.values()), list(changed.values()))


def _trial(
  trial: TrialState, assignment: Assignment, rank: int | None, items: int
) -> TrialEvidence:
  """One trial's row; `items` is the size of the external set."""
  # A score that somebody else handed in has no known number of items.
  interval = None
  released = None
  if trial.released_families is not None:
    interval = _interval(trial.released, items)
    released = _released(trial.released_families)
  return TrialEvidence(
    trial=trial.trial,
    worker=trial.worker,
    axis=trial.axis,
    arm=assignment.arm,
    changes=assignment.changes,
    status=trial.status,
    cause=trial.cause,
    dev=None if trial.dev is None else DevScore.from_json(trial.dev),
    external=trial.released,
    external_interval=interval,
    external_by_family=released,
    external_rank=rank,
    cost=_cost(trial),
  )


def _cost(trial: TrialState) -> Cost:
  """What a trial claims to have cost."""
  seconds = round(sum(trial.claim.get('seconds', {}).values()), 1)
  counts = {name: trial.claim.get(name, 0) for name in ('tokens', 'steps', 'flops')}
  return Cost(**counts, seconds=seconds)


def _interval(accuracy: float, items: int) -> list[float]:
  """The Wilson interval of a released, rounded accuracy."""
  low, high = wilson(round(accuracy * items), items)
  return [round(low, 4), round(high, 4)]


def _released(released: Mapping[str, list]) -> dict[str, ReleasedScore]:
  """Family -> score, of what was released as [accuracy, total]."""
  scores = {}
  for family, (accuracy, total) in sorted(released.items()):
    low, high = _interval(accuracy, total)
    scores[family] = ReleasedScore(accuracy, total, low, high)
  return scores
