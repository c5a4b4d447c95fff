"""Simulated campaigns for the statistical agent, where the truth is known.

`campaign` plays the real rounds (release by dev within the quota, pooled seed noise, two-decimal
external scores, evidence as the controller makes it) over a `World`: true accuracy = base +
effect(overlay), and every trial adds a seed's luck, which its dev and external scores share, and a
little of each set's own.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from rounds_by_hand import proportion

from aevo_jax import layout
from aevo_jax.campaign.decisions import decisions
from aevo_jax.campaign.decisions.round_evidence import round_evidence
from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.statements import Binding
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.agent import Agent
from aevo_jax.meta_agent.agents.statistical import Statistical
from aevo_jax.meta_agent.evidence import Evidence

RECIPE = (layout.root_file('substrate') / 'recipe.gin').read_text()
DEFAULTS = default_values(RECIPE)
BASE = 0.5
STATISTICAL = Statistical()


@functools.cache
def shipped() -> constitution_lib.Constitution:
  loading.load([str(layout.root_file('constitution.gin'))], [], search_paths=layout.search_paths())
  return constitution_lib.from_gin()


@dataclasses.dataclass(frozen=True)
class World:
  """effect: of the bound values (defaults included) on accuracy, or on that of each of equally many
  items of some families; seed_sd, item_sd: shared and own noise; missing: share of trials that
  fail.
  """

  effect: Callable[[dict[str, Any]], float | dict[str, float]] = lambda values: 0.0
  seed_sd: float = 0.012
  item_sd: float = 0.004
  missing: float = 0.0


def real_effects(values: dict[str, Any]) -> float:
  """Two axes that help (averaging up to +.05, lighter solution text up to +.04), one with a steep
  optimum, one that only hurts.
  """
  ema = 0.05 * min(1.0, values['train.ema_decay'] / 0.8)
  light = 0.04 * max(
    0.0, 1 - abs(math.log10(values['loss.reasoning_weight'] / 0.3)) / math.log10(1 / 0.3)
  )
  rate = -0.15 * abs(
    math.log10(values['optimizer.learning_rate'] / DEFAULTS['optimizer.learning_rate'])
  )
  lora = -0.1 if values['adaptation.method'] == 'lora' else 0.0
  bare = -0.2 if values['solution_style.equation_transformation'] == 'bare' else 0.0
  return ema + (light if not bare else 0.0) + rate + lora + bare


def row(accuracy: float, families: dict[str, float] | None = None) -> dict:
  by_family = {family: proportion(a, 200).to_json() for family, a in (families or {}).items()}
  overall = proportion(accuracy).to_json()
  return {'overall': overall, 'by_family': by_family, 'other_verifier': overall}


def play(
  state: CampaignState,
  policy: policy_lib.Policy,
  world: World,
  rng: np.random.Generator,
  constitution,
) -> Evidence:
  """One round: every assignment trained and scored, scores released, evidence taken."""
  external = {}
  for worker, assignment in enumerate(policy.assignments):
    name = f'r{policy.round}w{worker}'
    trial = state.trials[name] = TrialState(
      name, policy.round, worker, assignment.axis, policy.overlay(worker), 0, status='sealed'
    )
    if rng.random() < world.missing:
      trial.status, trial.cause = 'failed', 'non_finite'
      continue
    effect = world.effect(DEFAULTS | assignment.overlay)
    families = effect if isinstance(effect, dict) else {'': effect}
    # Independent luck on each family, so that overall luck has the standard deviation asked for.
    wider = math.sqrt(len(families))
    truth = {
      f: BASE + e + wider * world.seed_sd * rng.standard_normal() for f, e in families.items()
    }
    dev = {f: t + wider * world.item_sd * rng.standard_normal() for f, t in truth.items()}
    trial.dev = row(
      round(float(np.mean(list(dev.values()))), 6), dev if isinstance(effect, dict) else None
    )
    external[name] = float(np.mean(list(truth.values()))) + world.item_sd * rng.standard_normal()
    trial.external_scored = True
  released = decisions.to_release(
    state.of_round(policy.round),
    constitution.release.per_round,
    repeats=decisions.repeated(state, policy.round),
  )
  for name in released:
    state.trials[name].released = round(external[name], constitution.release.decimals)
  evidence = round_evidence(state, policy.round, policy, constitution)
  return Evidence.from_json(evidence.to_text())


def campaign(
  world: World,
  seed: int,
  *,
  constitution=None,
  agent: Agent = STATISTICAL,
  check: bool = False,
) -> list[policy_lib.Policy]:
  """All policies of one simulated campaign; the last is the one whose standing recipe wins."""
  constitution = constitution or shipped()
  rng, state, history = np.random.default_rng([seed, 1]), CampaignState(), []
  policies = [policy_lib.starting(constitution.budget.noise_seeds)]
  for round_ in range(constitution.budget.rounds + 1):
    history.append(play(state, policies[-1], world, rng, constitution))
    policies.append(
      agent.decide(history, policies[-1], constitution, DEFAULTS, seed=seed * 100 + round_)
    )
    if check:
      space = constitution.space()
      for assignment in policies[-1].assignments:
        space.check(
          [Binding(selector, value) for selector, value in assignment.overlay.items()], DEFAULTS
        )
  return policies


def changed_at_all(policies) -> bool:
  return any(p.standing for p in policies)


def gain(world: World, policies) -> float:
  """True accuracy of what the campaign ends with, over the starting recipe."""

  def total(effect):
    return float(np.mean(list(effect.values()))) if isinstance(effect, dict) else effect

  return total(world.effect(DEFAULTS | policies[-1].standing)) - total(world.effect(DEFAULTS))


FAMILIES = (
  'bit_manipulation',
  'text_encryption',
  'numeral_conversion',
  'unit_conversion',
  'gravitational_constant',
  'equation_transformation',
)


def effects_on_families(values: dict[str, Any]) -> dict[str, float]:
  """Solutions with intermediate results gain .25 on units and .3 on gravity, .09 overall; most
  other changes lose on all families, as in the real runs kept in benchmarks/results."""
  distance = math.log10(
    values['optimizer.learning_rate'] / DEFAULTS['optimizer.learning_rate']
  ) - 0.6 * (values['optimizer.name'] == 'muon')
  common = -min((0.12 if distance > 0 else 0.06) * distance**2, 0.3) - 0.03 * abs(
    math.log10(values['loss.reasoning_weight'])
  )
  common -= 0.2 * max(0.0, distance + 0.8) * (values['optimizer.name'] == 'lion') + 0.05 * (
    values['adaptation.method'] == 'lora'
  )
  common -= (
    {16: 0.02, 32: 0.05}.get(values['train.batch_rows'], 0.0)
    + 0.05 * values['data.plain_share']
    + 0.03 * (1 - values['difficulty.magnitude'])
  )
  common -= 0.03 * (values['optimizer.schedule'] == 'constant') + 0.03 * (
    values['train.ema_decay'] > 0.95
  )
  effect = {
    family: common + 0.06 * min(0.0, math.log2(values[f'family_weight.{family}']))
    for family in FAMILIES
  }
  effect['unit_conversion'] += {'steps': 0.25, 'worked': 0.0, 'bare': -0.05}[
    values['solution_style.unit_conversion']
  ]
  effect['gravitational_constant'] += {'steps': 0.3, 'worked': 0.0, 'bare': -0.1}[
    values['solution_style.gravitational_constant']
  ]
  effect['equation_transformation'] -= 0.2 * (
    values['solution_style.equation_transformation'] == 'bare'
  )
  return effect


def together(values: dict[str, Any]) -> float:
  """Two choices of one axis that gain .06 together and lose .01 alone; every other change is as in
  real_effects, without averaging's gain.
  """
  both = [
    values[f'solution_style.{f}'] == 'steps' for f in ('unit_conversion', 'gravitational_constant')
  ]
  return real_effects(values | {'train.ema_decay': DEFAULTS['train.ema_decay']}) + (
    0.06 if all(both) else -0.01 * any(both)
  )
