"""The LoRA adapter of a run: read from its last checkpoints, apart from the base."""

import errno
import pathlib
from collections.abc import Sequence

import numpy as np

from aevo_jax.checkpoint import orbax_io
from aevo_jax.models import scan_layers
from aevo_jax.models.hf.peft_adapter import Adapter
from aevo_jax.models.params import is_adapter
from aevo_jax.training.recipe.recipe import Lora

CHECKPOINTS = 'checkpoints'
THEN = 'then'  # the folder of the method that follows supervised fine-tuning


def last_checkpoints(run: pathlib.Path) -> list[pathlib.Path]:
  """Lists the last checkpoint of each method that a run has trained by.

  Args:
    run: directory of the run.

  Returns:
    One directory, or two where another method followed supervised fine-tuning.

  Raises:
    FileNotFoundError: the run has no checkpoint.
  """
  found = []
  for folder in (run / CHECKPOINTS, run / THEN / CHECKPOINTS):
    step = orbax_io.latest_step(folder)
    if step is not None:
      found.append(orbax_io.step_directory(folder, step))
  if not found:
    raise FileNotFoundError(errno.ENOENT, 'no checkpoint', str(run / CHECKPOINTS))
  return found


def read(checkpoints: Sequence[pathlib.Path], lora: Lora, pattern: str) -> Adapter:
  """Reads what a run added to its base.

  Two methods one after the other train an adapter each, the second on weights into which the first
  is merged: W + s A1 B1 + s A2 B2. That is one adapter of twice the rank, A1 beside A2 and B1 above
  B2, under the same scale s.

  Args:
    checkpoints: of the run, one for each method.
    lora: of its recipe.
    pattern: of the model, by which scanned layers are unstacked.

  Returns:
    The adapter.
  """
  parts = [_of_checkpoint(path, pattern) for path in checkpoints]
  params = {}
  for name in parts[0]:
    axis = -1 if name.endswith('.lora_a') else -2
    params[name] = np.concatenate([part[name] for part in parts], axis)
  return Adapter(params, len(parts) * lora.rank, len(parts) * lora.alpha)


def _of_checkpoint(path: pathlib.Path, pattern: str) -> dict[str, np.ndarray]:
  """Returns the adapters of one checkpoint, of the moving average where there is one."""
  state = orbax_io.restore(path)
  weights = state.get('ema') or state['params']
  adapters = {name: np.asarray(value) for name, value in weights.items() if is_adapter(name)}
  return scan_layers.unstack(adapters, pattern)
