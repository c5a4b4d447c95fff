"""A worker: the process of one trial.

  python -m aevo_jax.campaign.trial.worker DIRECTORY

The fork server calls `main` in a process that it forked; any other executor can run the line above.

It pins its threads and locks itself in before anything runs. It exits 0 whenever it could say what
happened; `result.json` holds the status ('trained', 'refused', 'failed') and the cause. A disk that
takes no file takes no result either: then the exit status is DISK_STATUS.
"""

import contextlib
import json
import os
import pathlib
import sys
import traceback
from typing import Any

from aevo_jax import faults
from aevo_jax.campaign.sandbox import confinement
from aevo_jax.campaign.trial.spec import RESULT, TrialSpec
from aevo_jax.runtime import die_with_parent, pin_threads, tune_for_cpu, unpin

# A worker's word that the system refused it a file; the controller looks for itself.
DISK_STATUS = os.EX_IOERR


def exit_status(error: BaseException) -> int:
  """Returns the exit status of a worker that an error ended."""
  if faults.is_machines(error):
    return DISK_STATUS
  return 1


def main(directory: str | pathlib.Path) -> int:
  """Runs the trial whose spec lies in a directory.

  Args:
    directory: of the trial; result.json appears there last.

  Returns:
    The exit status of the process: 0, or DISK_STATUS.
  """
  die_with_parent()
  directory = pathlib.Path(directory).absolute()
  os.chdir(directory)
  os.environ['HOME'] = str(directory)
  spec = TrialSpec.read(directory)
  cores = os.sched_getaffinity(0)
  pin_threads(spec.threads)
  os.environ['TMPDIR'] = str(directory / 'tmp')
  (directory / 'tmp').mkdir(exist_ok=True)
  if spec.locked:
    _lock_in(directory, spec)
  _start_jax(spec)
  unpin(cores)
  try:
    claim = _claim(directory, spec)
    temporary = directory / (RESULT + '.tmp')
    temporary.write_text(json.dumps(claim, indent=1, sort_keys=True) + '\n')
    temporary.rename(directory / RESULT)
  except OSError as error:
    if not faults.is_machines(error):
      raise
    with contextlib.suppress(OSError):
      print(faults.explain(error), flush=True)
    return DISK_STATUS
  with contextlib.suppress(OSError):
    print(json.dumps(claim), flush=True)
  return 0


def _claim(directory: pathlib.Path, spec: TrialSpec) -> dict[str, Any]:
  """Runs the trial and returns what to say of it."""
  # Late, since threads and malloc must be set before the libraries are imported.
  from jax.errors import JaxRuntimeError  # noqa: PLC0415

  from aevo_jax.campaign.trial import execution  # noqa: PLC0415

  try:
    return execution.run(directory, spec)
  except MemoryError:
    message = traceback.format_exc(limit=3)
  except JaxRuntimeError as error:
    if faults.DEVICE_OUT_OF_MEMORY not in str(error):
      raise
    message = str(error)
  return {'status': 'failed', 'cause': 'out_of_memory', 'message': message}


def _lock_in(directory: pathlib.Path, spec: TrialSpec) -> None:
  """Confines the process to its own directory and to what it must read."""
  package = pathlib.Path(__file__).resolve().parents[2]
  substrate = pathlib.Path(spec.store) / spec.substrate
  cache = (pathlib.Path(spec.cache),) if spec.cache else ()
  confinement.confine(
    confinement.Confinement(
      read=(*confinement.system_read_paths(), package, substrate, *cache),
      write=(*confinement.system_write_paths(), directory),
    )
  )


def _start_jax(spec: TrialSpec) -> None:
  import jax  # noqa: PLC0415 after threads and flags are set

  if spec.cache:
    # Read-only: whoever can write the cache can run code in its readers, so no entry is ever long
    # enough in the making to be saved.
    jax.config.update('jax_compilation_cache_dir', spec.cache)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 1e9)
  jax.devices()


if __name__ == '__main__':
  tune_for_cpu()
  sys.exit(main(sys.argv[1]))
