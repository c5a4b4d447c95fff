"""Pausing: the record of a pause, also on a disk that takes no record.

A run holds some bytes back (`Reserve`), which make room for the record on a full disk. Where that
is not enough, as on a read-only disk, the pause is noted in the arbiter's home, which may lie on
another disk, and entered when the campaign goes on.
"""

import json
import pathlib

from aevo_jax.campaign.journal import Journal
from aevo_jax.campaign.machine.fault import MachineFaultError
from aevo_jax.campaign.machine.reserve import Reserve
from aevo_jax.ledger.records import LedgerError

NOTES = 'pauses'
KIND = 'campaign_paused'


class Pausing:
  """Enters pauses into the journal.

  Args:
    run: the run directory.
    journal: of the campaign.
    note: file for a note, on another disk if possible; its directory is created.
  """

  def __init__(self, run: pathlib.Path, journal: Journal, note: pathlib.Path):
    self._reserve = Reserve(run)
    self._journal = journal
    self._note = note

  def prepare(self) -> None:
    """Enters a pause that could only be noted, and holds bytes back for the next.

    Raises:
      OSError: the disk has no room for them.
    """
    if self._note.exists():
      payload = json.loads(self._note.read_text())
      if self._journal.state.paused != payload:  # else the disk took the record after all
        self._enter(payload)
      self._note.unlink()
    self._reserve.take()

  def pause(self, fault: MachineFaultError, interrupted: list[str]) -> None:
    """Enters a pause, or notes it, or does neither where no disk takes either.

    Args:
      fault: why.
      interrupted: trials whose attempts were ended for it.
    """
    payload = {'cause': fault.cause, 'message': str(fault), 'trials': interrupted}
    self._reserve.release()
    try:
      self._journal.recover()
      self._enter(payload)
    except (OSError, LedgerError):
      self._take_note(payload)

  def end(self) -> None:
    """Gives the bytes back."""
    self._reserve.release()

  def _enter(self, payload: dict) -> None:
    # Before the first record nothing has happened that a pause could interrupt.
    if self._journal.state.started is not None:
      self._journal.append(KIND, payload)

  def _take_note(self, payload: dict) -> None:
    try:
      self._note.parent.mkdir(parents=True, exist_ok=True)
      self._note.write_text(json.dumps(payload))
    except OSError:
      return  # the command still says it
