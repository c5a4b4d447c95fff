"""A fold over a sequence that grows: the states of the latest prefixes are kept.

Verdicts are given after every round on all rounds so far, so that what is computed from them is
asked for one round more each time.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

# Prefixes whose states are kept: of several sequences at a time.
_KEPT = 64


class Prefixes[State]:
  """States of a fold, `step(state, item, place)` for each item.

  >>> total = Prefixes(0, lambda state, item, place: state + item)
  >>> total((1, 2)), total((1, 2, 3))
  (3, 6)
  """

  def __init__(self, start: State, step: Callable[[State, Any, int], State]):
    """Makes a fold that has seen nothing.

    Args:
      start: state of no items.
      step: takes the state, an item and its place, and returns the next state, which no later step
        changes.
    """
    self._start = start
    self._step = step
    self._known: OrderedDict[tuple[Hashable, ...], State] = OrderedDict()

  def __call__(self, items: tuple[Hashable, ...]) -> State:
    """Computes the state of some items.

    Args:
      items: of any number.

    Returns:
      The state, from that of the longest prefix that is kept.
    """
    done = len(items)
    while done and items[:done] not in self._known:
      done -= 1
    state = self._start
    if done:
      state = self._known[items[:done]]
      self._known.move_to_end(items[:done])
    for place in range(done, len(items)):
      state = self._step(state, items[place], place)
      self._known[items[: place + 1]] = state
      if len(self._known) > _KEPT:
        self._known.popitem(last=False)
    return state
