"""Where a run goes on: its latest checkpoint, or a sentence about what to do with a damaged one."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from aevo_jax.checkpoint import orbax_io
from aevo_jax.checkpoint.digest import ManifestError


class DamagedCheckpointError(ValueError):
  """The latest checkpoint cannot be read; the message names it and the step before."""


class Resumed(NamedTuple):
  """What the latest checkpoint holds.

  Attributes:
    step: that the run goes on with.
    tree: the arrays.
    data_state: where its data go on.
  """

  step: int
  tree: Any
  data_state: bytes


def restore_latest(root: str | os.PathLike, abstract_tree: Any) -> Resumed | None:
  """Restores the latest checkpoint of a run.

  An older one is never taken in silence: a run that lost its latest checkpoint should say so.

  Args:
    root: the folder of the run's checkpoints; it may be missing.
    abstract_tree: the structure of the arrays, see `orbax_io.restore`.

  Returns:
    The checkpoint, None where none is saved.

  Raises:
    DamagedCheckpointError: it was changed, or is incomplete.
  """
  step = orbax_io.latest_step(root)
  if step is None:
    return None
  path = orbax_io.step_directory(root, step)
  try:
    tree = orbax_io.restore(path, abstract_tree)
    data_state = orbax_io.read_data_state(path)
  except ManifestError as error:
    names = (*error.missing, *error.changed, *error.extra)
    reason = 'its manifest is missing or unreadable'
    if names:
      reason = f'{names[0]} is not as it was saved'
    raise _damaged(path, reason) from error
  except (ValueError, KeyError, FileNotFoundError) as error:
    raise _damaged(path, str(error).partition('\n')[0][:200]) from error
  if data_state is None:
    raise _damaged(path, 'it has no position of the data')
  return Resumed(step, tree, data_state)


def _damaged(path: Path, reason: str) -> DamagedCheckpointError:
  earlier = orbax_io.saved_steps(path.parent)[:-1]
  then = f'goes on from step {earlier[-1]}' if earlier else 'begins again'
  return DamagedCheckpointError(
    f'the checkpoint {path} is damaged ({reason}); remove that directory, and the same command '
    f'{then}'
  )
