"""One simulated campaign: agents and verdicts are the real ones, a surface stands for training.

Policies come from the agents, scores from the surface, evidence and verdicts from the functions
that the controller calls.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aevo_jax.campaign.decisions import decisions
from aevo_jax.campaign.decisions.next_policy import next_policy
from aevo_jax.campaign.decisions.round_evidence import round_evidence
from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.campaign.trial.spec import trial_seed
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.policy import Policy
from aevo_jax.simulation import injected_shift
from aevo_jax.simulation import surface as surface_lib
from aevo_jax.simulation.detector import Alarm, Detector, by_trial
from aevo_jax.simulation.injected_shift import InjectedShift, LogOdds, Onset
from aevo_jax.simulation.item_set import ItemSet
from aevo_jax.simulation.scenario import Scenario


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a campaign ended; gains are of mean external accuracy, without noise.

  Attributes:
    index: of the campaign.
    gain: of the promoted recipe over the starting one; None where no agent played.
    best: gain of the best recipe that a long search found; None where it was not searched for.
    promotions: changes of the standing recipe.
    false_promotions: those to a recipe that is no better than the one before.
    alarms: the first of each stream; None where rounds were not judged (`simulation.verdicts`).
    shift: of the injected shift; None where nothing was injected.
  """

  index: int
  gain: float | None
  best: float | None
  promotions: int
  false_promotions: int
  alarms: tuple[Alarm, ...] | None
  shift: Onset | None


class World(NamedTuple):
  """What a campaign is played on."""

  surface: surface_lib.Surface
  shift: InjectedShift | None


class Measured(NamedTuple):
  """What N trials answer.

  Attributes:
    dev: booleans [N, F, items].
    external: booleans [N, F, items of the external set].
  """

  dev: np.ndarray
  external: np.ndarray

  @property
  def accuracies(self) -> tuple[np.ndarray, np.ndarray]:
    """On dev and external, [N, F] each."""
    return self.dev.mean(axis=-1), self.external.mean(axis=-1)


def sample_world(scenario: Scenario, index: int) -> World:
  """Draws the world of a campaign.

  Args:
    scenario: what worlds are drawn from.
    index: of the campaign. Campaigns of equal index have one world, whatever their agent.

  Returns:
    The surface, and the shift if the scenario injects one.
  """
  rng = np.random.default_rng([scenario.settings.seed, index, 1])
  surface = surface_lib.make(
    scenario.encoder, scenario.families, scenario.settings, rng, scenario.posterior
  )
  shift = injected_shift.sample(
    scenario.shift,
    scenario.encoder,
    scenario.families,
    scenario.constitution,
    scenario.settings,
    index,
  )
  return World(surface, shift)


class Simulator:
  """Trains and scores rounds of trials in place of workers, evaluator and arbiter.

  Args:
    scenario: what the world is drawn from.
    index: of the campaign.
    shift: is injected in place of the world's.

  Attributes:
    surface: what recipes do.
    shift: the injected one, if any.
    detector: judges the rounds.
  """

  def __init__(self, scenario: Scenario, index: int, shift: InjectedShift | None = None):
    self._scenario = scenario
    self._constitution = scenario.constitution
    sampled = sample_world(scenario, index)
    self.surface = sampled.surface
    self.shift = shift or sampled.shift
    self._rng = np.random.default_rng([scenario.settings.seed, index, 2])
    self._dev_set = self._item_set(scenario.constitution.dev_set.items)
    self._external_set = self._item_set(scenario.constitution.external_set.items)
    self.detector = Detector(scenario.constitution, scenario.families, index)

  @property
  def onset(self) -> Onset | None:
    """The injected shift's family by name, and its first round."""
    if self.shift is None:
      return None
    return Onset(self._scenario.families[self.shift.family], self.shift.onset)

  def _item_set(self, items: int) -> ItemSet:
    """Draws a set whose items are spread evenly over families."""
    families = len(self._scenario.families)
    common = self._scenario.settings.common_items
    return ItemSet.sample(families, items // families, common, self._rng)

  def measure(self, codes: np.ndarray, round_: int | np.ndarray) -> Measured:
    """Trains and asks recipes, with all noise: training seeds, the sets' difficulty, their items.

    Args:
      codes: recipes, [N, P].
      round_: in which all recipes are trained, or [N] of each.

    Returns:
      Their answers.
    """
    settings = self._scenario.settings
    shape = (len(codes), len(self._scenario.families))
    seed_noise = settings.seed_sd * self._rng.standard_normal(shape)
    added = self._shift_log_odds(codes, round_)
    dev = self.surface.accuracies(codes, seed_noise + added.dev)
    transfer_noise = settings.transfer_sd * self._rng.standard_normal(shape)
    external = self.surface.accuracies(codes, seed_noise + added.external + transfer_noise)
    return Measured(
      self._dev_set.answers(dev, self._rng), self._external_set.answers(external, self._rng)
    )

  def judge(self, names: Sequence[str], measured: Measured, same: Sequence[str]) -> dict[str, dict]:
    """Gives the verdicts on one more round.

    Args:
      names: of its trials.
      measured: their answers.
      same: names of those that ran the starting recipe.

    Returns:
      Fields of the verdicts by stream.
    """
    return self.detector.judge(by_trial(names, self._scenario.families, *measured), same)

  def start(self, names: Sequence[str], measured: Measured) -> None:
    """Takes trials as replicates of the starting recipe.

    Args:
      names: of the trials.
      measured: their answers.
    """
    self.detector.start(by_trial(names, self._scenario.families, *measured))

  def _shift_log_odds(self, codes: np.ndarray, round_: int | np.ndarray) -> LogOdds:
    if self.shift is None:
      zeros = np.zeros((len(codes), len(self._scenario.families)))
      return LogOdds(zeros, zeros)
    return self.shift.log_odds(self._scenario.encoder, codes, len(self._scenario.families), round_)

  def truth(self, overlay: dict) -> float:
    """Computes a recipe's mean external accuracy without noise.

    Args:
      overlay: bindings over the starting recipe.

    Returns:
      The accuracy in the last round, so under the shift if its onset has come.
    """
    encoder = self._scenario.encoder
    codes = encoder.codes(encoder.prune(overlay))[None]
    added = self._shift_log_odds(codes, self._constitution.budget.rounds)
    return float(self.surface.accuracies(codes, added.external).mean())

  def run_round(self, state: CampaignState, policy: Policy) -> Evidence:
    """Trains and scores every assignment, releases scores, gives verdicts and takes evidence.

    Args:
      state: to which the round's trials are added.
      policy: of the round.

    Returns:
      The round's evidence, as it is after it was JSON.
    """
    encoder = self._scenario.encoder
    codes = [encoder.codes(encoder.prune(a.overlay)) for a in policy.assignments]
    measured = self.measure(np.asarray(codes), policy.round)
    dev, external = measured.accuracies
    for worker, row in enumerate(dev.tolist()):
      trial = self._trial(policy, worker, row)
      state.trials[trial.trial] = trial
    self._release(state, policy, external)
    if self._scenario.settings.verdicts:
      self._judge(state, policy, measured)
    evidence = round_evidence(state, policy.round, policy, self._constitution)
    return Evidence.from_json(evidence.to_text())

  def _judge(self, state: CampaignState, policy: Policy, measured: Measured) -> None:
    """Enters the verdicts on a round; in round 0 all trials run one recipe."""
    names = [_trial_name(policy.round, worker) for worker in range(len(measured.dev))]
    if not policy.round:
      self.start(names, measured)
      return
    starting = state.trials[_trial_name(0, 0)].overlay
    same = [name for name in names if state.trials[name].overlay == starting]
    state.verdicts[policy.round] = self.judge(names, measured, same)

  def _trial(self, policy: Policy, worker: int, dev: list[float]) -> TrialState:
    """Makes a sealed trial with its dev accuracies, one of each family."""
    families = self._scenario.families
    items = self._constitution.dev_set.items // len(families)
    overall = _summary(sum(dev) / len(dev), items * len(dev))
    trial = TrialState(
      _trial_name(policy.round, worker),
      policy.round,
      worker,
      policy.assignments[worker].axis,
      policy.overlay(worker),
      0,
      status='sealed',
      external_scored=True,
    )
    by_family = {f: _summary(accuracy, items) for f, accuracy in zip(families, dev, strict=True)}
    trial.dev = {'overall': overall, 'by_family': by_family, 'other_verifier': overall}
    return trial

  def _release(self, state: CampaignState, policy: Policy, external: np.ndarray) -> None:
    """Releases external scores within the quota."""
    rules = self._constitution.release
    families = self._scenario.families
    items = self._constitution.external_set.items // len(families)
    names = [_trial_name(policy.round, worker) for worker in range(len(external))]
    overall = dict(zip(names, external.mean(axis=1).tolist(), strict=True))
    by_name = dict(zip(names, external.tolist(), strict=True))
    trials = state.of_round(policy.round)
    for name in decisions.to_release(trials, rules.per_round, policy.objectives):
      released = {}
      for family, accuracy in zip(families, by_name[name], strict=True):
        released[family] = [round(accuracy, rules.decimals), items]
      state.trials[name].released = round(overall[name], rules.decimals)
      state.trials[name].released_families = released


def _trial_name(round_: int, worker: int) -> str:
  return f'r{round_}w{worker}'


def _summary(accuracy: float, total: int) -> dict:
  """Makes a score's record, whose interval is the point itself."""
  return {
    'correct': round(accuracy * total),
    'total': total,
    'accuracy': accuracy,
    'low': accuracy,
    'high': accuracy,
  }


def simulate(simulator: Simulator, scenario: Scenario, agent: str, index: int) -> list[Policy]:
  """Runs all rounds of a campaign under an agent.

  Args:
    simulator: of this campaign.
    scenario: its constitution and starting recipe.
    agent: name of the agent.
    index: of the campaign, from which the agent's seed follows.

  Returns:
    Policies, round 0's first, and the one after the last round at the end.
  """
  budget = scenario.constitution.budget
  state = CampaignState()
  history = []
  policies = [policy_lib.starting(budget.noise_seeds)]
  for _ in range(budget.rounds + 1):
    history.append(simulator.run_round(state, policies[-1]))
    policies.append(
      next_policy(
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
  """Runs a campaign; everything repeats for the same scenario and index.

  Args:
    scenario: what its world is drawn from.
    agent: name of the agent.
    index: of the campaign.
    search: whether to search for the best recipe there is, in noise-free accuracy.

  Returns:
    Gains, promotions and alarms.
  """
  simulator = Simulator(scenario, index)
  policies = simulate(simulator, scenario, agent, index)
  truths = [simulator.truth(recipe) for recipe in _standing_recipes(policies)]
  best = None
  if search:
    rng = np.random.default_rng([scenario.settings.seed, index, 3])
    best = max(simulator.surface.best(rng), max(truths)) - truths[0]
  alarms = None
  if scenario.settings.verdicts:
    alarms = tuple(simulator.detector.alarms)
  return Outcome(
    index=index,
    gain=truths[-1] - truths[0],
    best=best,
    promotions=len(truths) - 1,
    false_promotions=sum([after <= before for before, after in itertools.pairwise(truths)]),
    alarms=alarms,
    shift=simulator.onset,
  )


def _standing_recipes(policies: Sequence[Policy]) -> list[dict]:
  """Returns standing recipes in order, without repeats of the one before."""
  standing = [policies[0].standing]
  for policy in policies[1:]:
    if policy.standing != standing[-1]:
      standing.append(policy.standing)
  return standing
