"""Dead axes: what a search space offers and the given tasks make meaningless.

An explorer of such an axis would be refused by its worker in every round. So a campaign on tasks of
one's own leaves these bindings out of its search space before it is frozen, and says so.
"""

import dataclasses
from collections.abc import Sequence

from aevo_jax.campaign.setup.validation import InvalidCampaignError
from aevo_jax.config.constitution import Constitution
from aevo_jax.tasks.item import Item

# Fields that count puzzles; whole sections of them are refused, see `sets.check_own`.
_OF_PUZZLES = ('data.demonstrations', 'data.plain_share')
_SOLUTION_WEIGHT = 'loss.reasoning_weight'


def dead(constitution: Constitution, items: Sequence[Item]) -> dict[str, str]:
  """Finds the bindings of the search space that change nothing with tasks of one's own.

  Args:
    constitution: its search space is read.
    items: that the campaign trains on.

  Returns:
    selector -> why, in words.
  """
  has_solutions = any(item.reasoning for item in items)
  reasons = {}
  for selector in constitution.space().selectors:
    if selector in _OF_PUZZLES:
      reasons[selector] = 'it speaks of the puzzles, which tasks.path replaces'
    elif selector == _SOLUTION_WEIGHT and not has_solutions:
      reasons[selector] = 'no task to train on has a solution; give some a "solution" to search it'
  return reasons


def without(constitution: Constitution, selectors: Sequence[str]) -> Constitution:
  """Leaves bindings out of the search space, and axes that have no other.

  Args:
    constitution: returned as it is where there is nothing to leave out.
    selectors: of the space.

  Raises:
    InvalidCampaignError: nothing would be left.
  """
  if not selectors:
    return constitution
  axes = {}
  for name, axis in constitution.search_space.axes.items():
    live = {selector: spec for selector, spec in axis.items() if selector not in selectors}
    if live:
      axes[name] = live
  if not axes:
    raise InvalidCampaignError(
      f'search_space.axes has nothing that acts on the tasks of {constitution.tasks.path}: '
      f'{", ".join(selectors)} are dead there; offer other axes, such as optimizer.learning_rate'
    )
  first = constitution.search_space.from_round
  opened = {name: round_ for name, round_ in first.items() if name in axes}
  space = dataclasses.replace(constitution.search_space, axes=axes, from_round=opened)
  return dataclasses.replace(constitution, search_space=space)
