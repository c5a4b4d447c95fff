"""The fault of a machine: its cause, and the sentence that says what to mend."""

import os
import pathlib

from aevo_jax import faults
from aevo_jax.campaign.executors.protocol import ExecutorError
from aevo_jax.evaluation.servers.client import ServerDiedError

PAUSED_STATUS = os.EX_TEMPFAIL  # of the command whose campaign has paused


class MachineFaultError(RuntimeError):
  """The machine failed, not a trial: the campaign pauses and goes on once that is mended.

  Attributes:
    cause: a word for records, such as 'disk_full'.
  """

  def __init__(self, cause: str, message: str):
    super().__init__(message)
    self.cause = cause


def resume_command(run: pathlib.Path) -> str:
  """Writes the command that continues a campaign.

  Args:
    run: its directory.
  """
  return f'aevo campaign --resume={run}'


def of_error(error: Exception, run: pathlib.Path) -> MachineFaultError | None:
  """Finds the machine's fault in what stopped the controller.

  Args:
    error: of the controller's own work, its servers and its executor; never of a trial.
    run: the run directory.

  Returns:
    The fault, None where the error says nothing of the machine.
  """
  again = resume_command(run)
  if isinstance(error, MachineFaultError):
    return error
  if faults.is_machines(error):
    return MachineFaultError(faults.MACHINE[error.errno], faults.explain(error, again))
  if faults.is_out_of_memory(error):
    return MachineFaultError('out_of_memory', faults.OUT_OF_MEMORY.format(again=again))
  if isinstance(error, ServerDiedError):
    return MachineFaultError('server_died', f'{error}; mend that, then {again}')
  if isinstance(error, ExecutorError):
    return MachineFaultError('executor', f'{error}; mend that, then {again}')
  return None
