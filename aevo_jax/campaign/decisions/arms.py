"""The arms after a revision of objectives: two recipes, one look, and what is compared at it.

When verdicts change what dev is worth, the old and the new objectives each name the recipe that
they put first, from the same evidence. In the rounds that follow `control.workers` explorers run
the one (arm 'control') and as many the other (arm 'revised'). At the look, a round that the policy
names beforehand, the arbiter compares the fresh runs of both on the external set, and those of the
revised recipe with the anchors of the recipe that stood when the arms began.

Recipes are compared and not the means of explorers: an arm that changes less loses less on average,
which is no merit. For the same reason a revision is supported only if its recipe beats the standing
one too. Where the revision changes nothing, both objectives name one recipe, and there is no test.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aevo_jax.campaign.decisions.state import CampaignState
from aevo_jax.config.constitution import Constitution, Control
from aevo_jax.config.parameter import value_problem
from aevo_jax.config.search_space import SearchSpace, prune
from aevo_jax.evaluation.servers import arbiter
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.observations import by_axis, observe
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy, render_overlay
from aevo_jax.stats.comparisons import permutation

REVISED = 'revised'
CONTROL = 'control'
STANDING = 'standing'

# How sentences on a revision begin where there is no test of it.
SAME_RECIPE = 'no control arm: the old and the new objectives put the same recipe first'
NO_RECIPE = 'no control arm: the new objectives put no change above the standing recipe'
NOT_SEEN = 'no control arm: no result could have been seen'
NOT_TESTED = 'no control arm: this revision could not have been tested'


class Named(NamedTuple):
  """The overlays of the two recipes."""

  revised: dict[str, Any]
  control: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Recipes:
  """What a recipe's overlay is read with.

  Attributes:
    standing: overlay of the standing recipe.
    space: of the search.
    defaults: selector -> value of the substrate's default recipe.
  """

  standing: dict[str, Any]
  space: SearchSpace
  defaults: Mapping[str, Any]

  def overlay(self, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the overlay of the standing recipe with some changes.

    Args:
      changes: selector -> value.
    """
    return prune({**self.standing, **changes}, self.space, self.defaults)

  def first(self, history: Sequence[Evidence], objectives: Mapping[str, float]) -> dict[str, Any]:
    """Finds the recipe that objectives put first, of all that were tried.

    Args:
      history: evidence of all rounds.
      objectives: family -> what a step of its dev score is worth.

    Returns:
      The overlay with the highest mean gain on dev, as it is worth; that of the standing recipe
      where nothing has gained.
    """
    base = self.overlay({})
    best = base
    highest = 0.0
    for observation in observe(history, objectives).values():
      overlay = self.overlay(observation.changes)
      gain = float(np.mean(observation.dev))
      if gain > highest and overlay != base:
        best = overlay
        highest = gain
    return best

  def assignment(self, overlay: Mapping[str, Any], arm: str) -> Assignment | None:
    """Assigns a worker a fresh run of a recipe.

    Args:
      overlay: of the recipe.
      arm: that it belongs to.

    Returns:
      The assignment, with changes of the recipe that stands now. None where that one binds what
      the recipe leaves alone, and no value of the search space undoes it.
    """
    changes = {}
    for selector in {**self.standing, **overlay}:
      value = overlay.get(selector, self.defaults.get(selector))
      if value != self.standing.get(selector, self.defaults.get(selector)):
        if value_problem(self.space.parameter(selector), value) is not None:
          return None
        changes[selector] = value
    merged = self.overlay(changes)
    live = {selector: value for selector, value in changes.items() if selector in merged}
    axes = list(by_axis(live, self.space))
    name = ' + '.join(axes) if len(axes) <= 2 else f'{len(axes)} axes'
    which = 'new' if arm == REVISED else 'old'
    reason = f'a fresh run of the recipe that the {which} objectives put first'
    return Assignment(name or ANCHOR, live, merged, reason, arm=arm)


def begin(
  following: Policy,
  before: Mapping[str, float],
  history: Sequence[Evidence],
  constitution: Constitution,
  recipes: Recipes,
) -> Policy:
  """Begins the arms of a revision, or says why there is no test.

  Args:
    following: the policy under the new objectives, for the first round after the revision.
    before: the old objectives.
    history: evidence of all rounds.
    constitution: rules of the control arm, rounds.
    recipes: of the following round.

  Returns:
    The policy with arms and the round of their look; the sentence on them is its first reason.
  """
  rules = constitution.control
  look = min(following.round + rules.rounds - 1, constitution.budget.rounds)
  rounds = look - following.round + 1
  workers = min(rules.workers, _explorers(following) // 2)
  if rounds < 1 or workers < 1:
    missing = 'no round is left' if rounds < 1 else 'too few workers explore'
    return _with_reason(following, f'{NOT_TESTED}: {missing}')
  runs = workers * rounds
  least = permutation.least_p(runs, runs)
  if least > rules.alpha:
    return _with_reason(
      following,
      f'{NOT_SEEN}: {runs} fresh runs of each recipe give p = {least:.2g} at least, and '
      f'control.alpha is {rules.alpha:g}',
    )
  named = Named(recipes.first(history, following.objectives), recipes.first(history, before))
  if named.revised == named.control:
    return _with_reason(following, SAME_RECIPE)
  if named.revised == recipes.overlay({}):
    return _with_reason(following, NO_RECIPE)
  armed = _armed(following, named._asdict(), workers, recipes)
  return _with_reason(
    dataclasses.replace(armed, look=look, control=rounds, objectives_before=dict(before)),
    f'control arm: {workers} workers a round run the recipe that the old objectives put first, '
    f'{workers} that of the new ones; the look is after round {look}',
  )


def go_on(following: Policy, policy: Policy, rules: Control, recipes: Recipes) -> Policy:
  """Has the arms of the round before run again, whatever verdicts have changed since.

  Args:
    following: the next policy without arms.
    policy: the one before, with arms.
    rules: of the control arm.
    recipes: of the following round.

  Returns:
    The policy with the same two recipes and the same look; without one of them where a promotion
    has made it impossible to bind.
  """
  overlays = {a.arm: a.overlay for a in policy.assignments if a.arm}
  workers = min(rules.workers, _explorers(following) // 2)
  armed = _armed(following, overlays, workers, recipes)
  if following.objectives != policy.objectives:
    armed = _with_reason(armed, f'{NOT_TESTED}: the arms of an earlier one go on to their look')
  return dataclasses.replace(
    armed,
    look=policy.look,
    control=policy.look - following.round + 1,
    objectives_before=policy.objectives_before,
  )


def _explorers(policy: Policy) -> int:
  return sum(a.axis != ANCHOR for a in policy.assignments)


def _with_reason(policy: Policy, reason: str) -> Policy:
  return dataclasses.replace(policy, reasons=(reason, *policy.reasons))


def _armed(
  following: Policy, overlays: Mapping[str, dict[str, Any]], workers: int, recipes: Recipes
) -> Policy:
  """Gives the places of the agent's last explorers to the arms, in turns."""
  anchors = [a for a in following.assignments if a.axis == ANCHOR]
  explorers = [a for a in following.assignments if a.axis != ANCHOR]
  runs = []
  for _ in range(workers):
    for arm in (REVISED, CONTROL):
      run = recipes.assignment(overlays[arm], arm) if arm in overlays else None
      if run is not None:
        runs.append(run)
  kept = explorers[: len(explorers) - len(runs)]
  return dataclasses.replace(following, assignments=(*anchors, *runs, *kept))


# -- at the look -----------------------------------------------------------------------------------


def compared(state: CampaignState, round_: int) -> dict[str, list[str]] | None:
  """Finds the runs that are compared after a round.

  Args:
    state: of the campaign.
    round_: the round.

  Returns:
    'revised', 'control' and 'standing' -> trials with an external score; the third are all anchors
    so far of the recipe that stood when the arms began. None where the round is no look.
  """
  if round_ < 1 or _look(state, round_) != round_:
    return None
  first = round_
  while _look(state, first - 1) == round_:
    first -= 1
  standing = render_overlay(state.policies[first]['policy']['standing'])
  trials: dict[str, list[str]] = {REVISED: [], CONTROL: [], STANDING: []}
  for k in sorted(state.policies):
    if k > round_:
      break
    assignments = policy_lib.from_json(state.policies[k]['policy']).assignments
    for trial in state.of_round(k):
      assignment = assignments[trial.worker]
      if not trial.has_external:
        continue
      if k >= first and assignment.arm:
        trials[assignment.arm].append(trial.trial)
      elif assignment.axis == ANCHOR and trial.overlay == standing:
        trials[STANDING].append(trial.trial)
  return trials


def result(
  state: CampaignState,
  look: int,
  proportion: Callable[[str], dict],
  constitution: Constitution,
) -> dict | None:
  """Compares the arms as the arbiter does, for those who know the scores.

  Args:
    state: of the campaign.
    look: the round of the look.
    proportion: trial -> what it got right of the external set, as 'correct' and 'total'.
    constitution: of the campaign.

  Returns:
    See `arbiter.arm_result`.
  """
  runs = {}
  for arm, trials in (compared(state, look) or {}).items():
    runs[arm] = [proportion(trial) for trial in trials]
  return arbiter.arm_result(runs, constitution)


def _look(state: CampaignState, round_: int) -> int:
  """The look that a round's policy names; 0 without one, and in ledgers of earlier versions."""
  if round_ not in state.policies:
    return 0
  return state.policies[round_]['policy'].get('look', 0)


def of_trials(state: CampaignState, round_: int) -> dict[str, str]:
  """Reads which trials of a round belong to an arm that is tested at a look.

  Args:
    state: of the campaign.
    round_: the round.

  Returns:
    trial -> arm.
  """
  if not _look(state, round_):
    return {}
  assignments = policy_lib.from_json(state.policies[round_]['policy']).assignments
  arms = {}
  for trial in state.of_round(round_):
    if assignments[trial.worker].arm:
      arms[trial.trial] = assignments[trial.worker].arm
  return arms
