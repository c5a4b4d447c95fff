"""The allowance of a trial: how much disk and memory it may take, and how much it is known to need.

The needs are measured with the micro model (0.77 million parameters, AdamW, an average of the
weights) and scaled by the base's size in float32.
"""

import json
import pathlib
from typing import NamedTuple

from aevo_jax import faults
from aevo_jax.campaign.executors.protocol import Allowance

GB = 10**9
# A checkpoint has the weights, their average and two moments; the export has the weights again.
WRITTEN_COPIES = 5
WRITTEN_BESIDES = 2**20
# A worker's libraries, and what a step holds at least: weights, gradients, moments, one update. An
# adapter leaves the weights and what is computed of them.
RESIDENT = 600 * 2**20
RESIDENT_COPIES = 5
RESIDENT_COPIES_OF_AN_ADAPTER = 2
# The store has the base, and so has a run.
STORED_COPIES = 2
STORED_BESIDES = 2**19
# A trial may take so many times what it is known to need.
GENEROSITY = 4
# Address space that JAX takes with the smallest model.
LEAST_MAPPED = 2**30
_SHARE = 0.9  # of the free memory


class Needs(NamedTuple):
  """What a campaign on a base takes, in bytes, as far as it is known.

  Attributes:
    trial_disk: of one trial's directory.
    trial_memory: of one trial's processes.
    setup_disk: before the first trial.
  """

  trial_disk: int
  trial_memory: int
  setup_disk: int


def float32_bytes(weights: pathlib.Path) -> int:
  """Returns the size of a safetensors file's tensors in float32.

  Args:
    weights: the file; its header is read.
  """
  with weights.open('rb') as file:
    header = json.loads(file.read(int.from_bytes(file.read(8), 'little')))
  elements = 0
  for name, tensor in header.items():
    if name == '__metadata__':
      continue
    count = 1
    for length in tensor['shape']:
      count *= length
    elements += count
  return 4 * elements


class LowLimitError(ValueError):
  """A limit on memory under which nothing can run."""


def needs(base_bytes: int, *, adapter: bool = False) -> Needs:
  """Estimates what a campaign takes.

  Args:
    base_bytes: of the base's weights in float32.
    adapter: whether trials train no more than an adapter.
  """
  copies = RESIDENT_COPIES_OF_AN_ADAPTER if adapter else RESIDENT_COPIES
  return Needs(
    trial_disk=WRITTEN_COPIES * base_bytes + WRITTEN_BESIDES,
    trial_memory=RESIDENT + copies * base_bytes,
    setup_disk=STORED_COPIES * base_bytes + STORED_BESIDES,
  )


def default(base_bytes: int, memory_free: int, slots: int) -> Allowance:
  """Computes what each trial may take on a machine where nobody bound it.

  Args:
    base_bytes: see `needs`.
    memory_free: bytes, before any trial runs.
    slots: processes that compute at once.
  """
  known = needs(base_bytes)
  shared = int(_SHARE * memory_free / slots)
  return Allowance(
    disk=GENEROSITY * known.trial_disk, memory=max(shared, GENEROSITY * known.trial_memory)
  )


def refuse_low_limit(base: pathlib.Path, limit: int | None, again: str = faults.AGAIN) -> None:
  """Refuses a limit on memory below which the compiler would end the process without a word.

  Args:
    base: directory of the weights.
    limit: see `Machine.memory_limit`.
    again: what to do once it is raised.

  Raises:
    LowLimitError: naming the limit and the fix.
  """
  needed = LEAST_MAPPED + sum([path.stat().st_size for path in base.glob('*.safetensors')])
  if limit is not None and limit < needed:
    raise LowLimitError(
      f'memory is limited to {limit / GB:.1f} GB (ulimit -v, -d), and JAX maps more than '
      f'{needed / GB:.1f} GB; raise the limit, then {again}'
    )
