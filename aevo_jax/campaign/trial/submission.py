"""The submission of a sealed trial: its weights, or its LoRA adapter in PEFT's form."""

import pathlib
import shutil

from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.campaign.trial.spec import EXPORT
from aevo_jax.models.hf import checkpoint, peft_adapter
from aevo_jax.substrate import build
from aevo_jax.training import trained_adapter
from aevo_jax.training.recipe.recipe import Lora


class NoSubmissionError(ValueError):
  """The trial has nothing of the wanted form; the message says why."""


def write(
  stage: pathlib.Path,
  directory: pathlib.Path,
  base: pathlib.Path,
  recipe: str,
  *,
  base_name: str,
  max_rank: int,
) -> str:
  """Writes what a trial trained: an adapter where its recipe has one, else the weights.

  Args:
    stage: directory to make.
    directory: the trial's.
    base: directory of the base checkpoint.
    recipe: the trial's whole recipe.
    base_name: the base as an adapter names it.
    max_rank: highest rank of an adapter; 0 where weights will do as well.

  Returns:
    'adapter' or 'weights'.

  Raises:
    NoSubmissionError: see `write_adapter`.
  """
  if max_rank or trains_adapter(recipe):
    write_adapter(stage, directory, base, recipe, base_name=base_name, max_rank=max_rank or None)
    form = 'adapter'
  else:
    stage.mkdir()
    shutil.copyfile(directory / EXPORT, stage / checkpoint.WEIGHTS)
    shutil.copyfile(base / checkpoint.CONFIG, stage / checkpoint.CONFIG)
    form = 'weights'
  for name in build.CARRIED:
    if name != checkpoint.CONFIG:
      shutil.copyfile(base / name, stage / name)
  return form


def trains_adapter(recipe: str) -> bool:
  """Tells whether a whole recipe, as gin text, trains an adapter."""
  return default_values(recipe)['adaptation.method'] == 'lora'


def write_adapter(
  stage: pathlib.Path,
  directory: pathlib.Path,
  base: pathlib.Path,
  recipe: str,
  *,
  base_name: str,
  max_rank: int | None,
) -> None:
  """Writes the adapter in a trial's sealed checkpoints.

  Args:
    stage: directory to make.
    directory: the trial's.
    base: directory of the base checkpoint.
    recipe: the trial's whole recipe.
    base_name: the base as the adapter names it.
    max_rank: highest rank, None for any.

  Raises:
    NoSubmissionError: the recipe trained all weights, its rank is higher, or PEFT has no form for
      the adapter.
  """
  values = default_values(recipe)
  if values['adaptation.method'] != 'lora':
    raise NoSubmissionError(
      f'the recipe of {directory.name} trained all weights (adaptation.method = '
      f'{values["adaptation.method"]!r})'
    )
  lora = Lora(values['lora.rank'], values['lora.alpha'], values['lora.targets'])
  config = checkpoint.read_config(base)
  checkpoints = trained_adapter.last_checkpoints(directory)
  adapter = trained_adapter.read(checkpoints, lora, config.pattern)
  try:
    peft_adapter.save(stage, adapter.params, config, adapter, base_name, max_rank=max_rank)
  except peft_adapter.AdapterError as error:
    raise NoSubmissionError(str(error)) from error
