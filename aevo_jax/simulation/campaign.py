"""One simulated campaign: policies by the real agents, scores from a surface, evidence and verdicts
by the functions the controller uses.
"""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from aevo_jax.campaign import decisions
from aevo_jax.campaign.state import CampaignState, TrialState
from aevo_jax.campaign.trial.spec import trial_seed
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.policy import Policy
from aevo_jax.simulation import injected_shift as plant_lib
from aevo_jax.simulation import surface as surface_lib
from aevo_jax.simulation.detector import Alarm, Detector
from aevo_jax.simulation.scenario import Scenario


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a campaign ended; gains are of mean external accuracy, without noise.

  Attributes:
    gain: of the promoted recipe over the starting one. best: of the best recipe that a long search
      found; None where it was not searched for.
    promotions: changes of the standing recipe. false_promotions: those to a recipe that is no
      better than the one before.
    alarms: the first of each stream; None where rounds were not judged (`simulation.verdicts`).
      plant: (family, onset) or None.
  """

  index: int
  gain: float | None
  best: float | None
  promotions: int
  false_promotions: int
  alarms: tuple[Alarm, ...] | None
  plant: tuple[str, int] | None


def world(scenario: Scenario, index: int) -> tuple[surface_lib.Surface, plant_lib.Plant | None]:
  """What campaign `index` of every agent is played on."""
  rng = np.random.default_rng([scenario.settings.seed, index, 1])
  surface = surface_lib.make(
    scenario.encoder, scenario.families, scenario.settings, rng, scenario.posterior
  )
  return surface, plant_lib.draw(
    scenario.plant,
    scenario.encoder,
    scenario.families,
    scenario.constitution,
    scenario.settings,
    index,
  )


class Play:
  """Trains and scores rounds of trials in place of workers, evaluator and arbiter."""

  def __init__(self, scenario: Scenario, index: int):
    self._scenario, self._constitution = scenario, scenario.constitution
    self.surface, self.plant = world(scenario, index)
    self._rng = np.random.default_rng([scenario.settings.seed, index, 2])
    self.detector = Detector(
      scenario.constitution, scenario.families, scenario.settings.replays, index
    )

  def scores(self, codes: np.ndarray, round_: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measured accuracies of recipes [N, P] on dev and external, [N, F] each. round_: of all
    recipes or [N] of each.
    """
    shape, settings, rng = (
      (len(codes), len(self._scenario.families)),
      self._scenario.settings,
      self._rng,
    )
    seed = settings.seed_sd * rng.standard_normal(shape)
    on_dev, on_external = self._shifts(codes, round_)
    dev = self.surface.accuracies(codes, seed + on_dev)
    external = self.surface.accuracies(
      codes, seed + on_external + settings.transfer_sd * rng.standard_normal(shape)
    )
    measure = lambda accuracy, items: (
      rng.binomial(items // shape[1], accuracy) / (items // shape[1])
    )
    return measure(dev, self._constitution.dev_set.items), measure(
      external, self._constitution.external_set.items
    )

  def _shifts(
    self, codes: np.ndarray, round_: int | np.ndarray
  ) -> tuple[np.ndarray | float, np.ndarray | float]:
    return (
      self.plant.shifts(self._scenario.encoder, codes, len(self._scenario.families), round_)
      if self.plant
      else (0.0, 0.0)
    )

  def truth(self, overlay: dict) -> float:
    """External accuracy of a recipe without noise, under the plant if it has been set."""
    codes = self._scenario.encoder.codes(self._scenario.encoder.prune(overlay))[None]
    return float(
      self.surface.accuracies(
        codes, self._shifts(codes, self._constitution.budget.rounds)[1]
      ).mean()
    )

  def round(self, state: CampaignState, policy: Policy) -> dict:
    """Every assignment trained and scored, scores released, verdicts given, evidence taken."""
    encoder, families, release = (
      self._scenario.encoder,
      self._scenario.families,
      self._constitution.release,
    )
    codes = np.asarray([encoder.codes(encoder.prune(a.overlay)) for a in policy.assignments])
    dev, external = self.scores(codes, policy.round)
    items = self._constitution.dev_set.items // len(families)
    score = lambda accuracy, total: {
      'correct': round(accuracy * total),
      'total': total,
      'accuracy': accuracy,
      'low': accuracy,
      'high': accuracy,
    }
    names = [f'r{policy.round}w{worker}' for worker in range(len(policy.assignments))]
    for worker, (name, assignment, row) in enumerate(zip(names, policy.assignments, dev.tolist())):
      trial = TrialState(
        name,
        policy.round,
        worker,
        assignment.axis,
        policy.overlay(worker),
        0,
        status='sealed',
        external_scored=True,
      )
      whole = score(sum(row) / len(row), items * len(row))
      trial.dev = {
        'overall': whole,
        'by_family': {f: score(a, items) for f, a in zip(families, row)},
        'other_verifier': whole,
      }
      state.trials[name] = trial
    overall = dict(zip(names, external.mean(axis=1).tolist()))
    on_external = dict(zip(names, external.tolist()))
    for name in decisions.to_release(
      state.of_round(policy.round), release.per_round, policy.objectives
    ):
      trial = state.trials[name]
      trial.released = round(overall[name], release.decimals)
      trial.released_families = {
        f: [round(a, release.decimals), self._constitution.external_set.items // len(families)]
        for f, a in zip(families, on_external[name])
      }
    state.ranks[policy.round] = {
      name: rank for rank, name in enumerate(sorted(overall, key=overall.get))
    }
    if (
      policy.round and self._scenario.settings.verdicts
    ):  # in round 0 all trials run one recipe, so that there is nothing to rank
      state.verdicts[policy.round] = self.detector.judge(dev, external)
    return json.loads(
      json.dumps(decisions.round_evidence(state, policy.round, policy, self._constitution))
    )


def planted(play: Play, scenario: Scenario) -> tuple[str, int] | None:
  """(family, onset) of a campaign's plant."""
  return (scenario.families[play.plant.family], play.plant.onset) if play.plant else None


def play_out(play: Play, scenario: Scenario, agent: str, index: int) -> list[Policy]:
  """All rounds of a campaign under an agent: its policies, round 0's first and the one after the
  last round at the end.
  """
  budget, state, history = scenario.constitution.budget, CampaignState(), []
  policies = [policy_lib.starting(budget.noise_seeds)]
  for _ in range(budget.rounds + 1):
    history.append(play.round(state, policies[-1]))
    policies.append(
      decisions.next_policy(
        history,
        policies[-1],
        scenario.constitution,
        recipe=scenario.recipe,
        agent=agent,
        campaign_seed=trial_seed(scenario.settings.seed, str(index)),
      )
    )
  return policies


def run(scenario: Scenario, agent: str, index: int, *, search: bool = True) -> Outcome:
  """Campaign `index` of an agent; `search` for the best recipe there is. Everything repeats for the
  same scenario and index.
  """
  play = Play(scenario, index)
  policies = play_out(play, scenario, agent, index)
  truths = [play.truth(standing) for standing in _changes(policies)]
  best = (
    play.surface.best(np.random.default_rng([scenario.settings.seed, index, 3])) if search else None
  )
  return Outcome(
    index,
    truths[-1] - truths[0],
    None if best is None else max(best, max(truths)) - truths[0],
    len(truths) - 1,
    sum(after <= before for before, after in zip(truths, truths[1:])),
    tuple(play.detector.alarms) if scenario.settings.verdicts else None,
    planted(play, scenario),
  )


def _changes(policies: Sequence[Policy]) -> list[dict]:
  """Standing recipes in order, without repeats of the one before."""
  standing = [policies[0].standing]
  for policy in policies[1:]:
    if policy.standing != standing[-1]:
      standing.append(policy.standing)
  return standing
