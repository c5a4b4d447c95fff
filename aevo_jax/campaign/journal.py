"""The journal of a campaign: its ledger with the state that the records fold to."""

from collections.abc import Callable
from typing import Any

from aevo_jax.campaign.decisions.state import fold
from aevo_jax.ledger.append import Ledger
from aevo_jax.ledger.records import Record

Observer = Callable[[Record | None], None]


class Journal:
  """Appends records and keeps the state that follows from all of them.

  Args:
    ledger: open and owned.
    observer: called with every new record, and with None while the controller waits.

  Attributes:
    state: a CampaignState, changed by `append` alone.
  """

  def __init__(self, ledger: Ledger, observer: Observer):
    self._ledger = ledger
    self._observer = observer
    self.state = fold(ledger.records)

  def append(self, kind: str, payload: dict[str, Any]) -> None:
    """Makes a record durable, folds it into the state and shows it to the observer.

    Args:
      kind: of the record; a kind that `CampaignState.apply` knows.
      payload: of the record.
    """
    record = self._ledger.append(kind, payload)
    self.state.apply(record)
    self._observer(record)

  def recover(self) -> None:
    """Folds the ledger anew after an append that the disk refused; see `Ledger.recover`."""
    self._ledger.recover()
    self.state = fold(self._ledger.records)

  def wait(self) -> None:
    """Tells the observer that the controller waits."""
    self._observer(None)
