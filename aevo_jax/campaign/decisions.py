"""What the controller decides, as pure functions of the folded state; the audit calls the same functions on the ledger it reads.

Each takes the ledger's facts and returns what follows from them: a trial's input, which scores are released, a round's evidence, the next policy,
what the final trains. None reads a clock or a file.
"""

import collections
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from aevo_jax.campaign import proxy_target
from aevo_jax.campaign.gate import default_values, full_recipe
from aevo_jax.campaign.state import CampaignState, TrialState
from aevo_jax.campaign.trial import TrialSpec, trial_seed
from aevo_jax.config.constitution import Constitution
from aevo_jax.config.statements import parse_statements
from aevo_jax.meta_agent import evidence as evidence_lib
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent import random_agent, statistical_agent
from aevo_jax.meta_agent.policy import ANCHOR, Policy

AGENTS = {'statistical': statistical_agent.decide, 'random': random_agent.decide}
FINAL = -1  # the round number of final retrainings in trial records


class Retraining(NamedTuple):
  """One retraining of the final: trial name, worker number, 'starting' or 'promoted', overlay text, and the name its seed is made of."""

  trial: str
  worker: int
  recipe: str
  overlay: str
  seed_name: str


def trial_spec(trial: TrialState, constitution: Constitution, *, recipe: str, store: str, substrate: str, base_digest: str, threads: int, cache: str,
               locked: bool) -> TrialSpec:
  """A trial's whole input; `recipe` is the substrate's default."""
  return TrialSpec(
      trial=trial.trial, store=store, substrate=substrate, base_digest=base_digest, constitution=constitution.digest(),
      recipe=full_recipe(parse_statements(trial.overlay), recipe), overlay=trial.overlay, seed=trial.seed, size=constitution.objective.size,
      tokens=constitution.budget.trial_tokens, steps=constitution.budget.trial_steps, threads=threads, axes=constitution.search_space.axes, cache=cache,
      locked=locked)


def tie_seed(campaign_seed: int, round_: int) -> int:
  """Seed of the coin that orders trials of equal external score."""
  return trial_seed(campaign_seed, f'ties{round_}')


def to_release(trials: Sequence[TrialState], per_round: int) -> list[str]:
  """Whose external scores a round asks for: the anchors first, then the best by dev, within the quota."""
  scored = [t for t in trials if t.external_scored]
  order = sorted(scored, key=lambda t: (t.axis != ANCHOR, -t.dev['overall']['accuracy'], t.worker))
  return [t.trial for t in order[:per_round]]


def round_evidence(state: CampaignState, round_: int, policy: Policy, constitution: Constitution) -> dict[str, Any]:
  """The evidence of a round, from what is known when it ends (later rounds and the final are left out)."""
  groups, target = collections.defaultdict(list), proxy_target.assess(state, round_, constitution) if constitution.objective.target == 'proxies' else None
  for trial in state.trials.values():
    if trial.axis == ANCHOR and trial.dev is not None and 0 <= trial.round <= round_:
      groups[trial.overlay].append(target.score(trial) if target else trial.dev['overall']['accuracy'])
  noise = evidence_lib.seed_noise(list(groups.values()), constitution.promotion.seed_sd_floor)
  ranks = state.ranks.get(round_, {})
  rows = [evidence_lib.trial_row(
      trial=t.trial, worker=t.worker, axis=t.axis, changes=policy.assignments[t.worker].changes, status=t.status, cause=t.cause, dev=t.dev,
      external=t.released, external_rank=ranks.get(t.trial), cost={k: t.claim.get(k, 0) for k in ('tokens', 'steps', 'flops')})
          for t in state.of_round(round_)]
  collected = evidence_lib.collect(round_=round_, standing=policy.standing, trials=rows, noise=noise)
  return target.entered(collected) if target else collected


def evidence_text(evidence: dict[str, Any]) -> str:
  """The evidence file, whose SHA-256 the ledger holds."""
  return json.dumps(evidence, indent=1, sort_keys=True) + '\n'


def next_policy(history: Sequence[dict], policy: Policy, constitution: Constitution, *, recipe: str, agent: str, campaign_seed: int) -> Policy:
  """What the named agent makes of the evidence of all rounds so far; `recipe` is the substrate's default."""
  return AGENTS[agent](proxy_target.rescored(history), policy, constitution, default_values(recipe), trial_seed(campaign_seed, f'agent{policy.round}'))


def promotion(policy: Policy, following: Policy) -> dict[str, Any]:
  """The payload of a round's promotion record."""
  return {'round': policy.round, 'promoted': following.standing, 'before': policy.standing, 'reasons': list(following.reasons)}


def retrainings(promoted: dict[str, Any], seeds: int) -> list[Retraining]:
  """The final's trials: starting and promoted recipe on fresh seeds each."""
  overlays = {'starting': '', 'promoted': policy_lib.render_overlay(promoted)}
  return [Retraining(f'{recipe}{k}', i * seeds + k, recipe, overlay, f'final{k}|{recipe}')
          for i, (recipe, overlay) in enumerate(overlays.items()) for k in range(seeds)]
