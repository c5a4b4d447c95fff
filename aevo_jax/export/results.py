"""What a path holds that can be exported. Imports no JAX, so a wrong path fails at once."""

import pathlib
from typing import NamedTuple

from aevo_jax.checkpoint import run_directory
from aevo_jax.evaluation import model_files

TAKES = (
  'a base or checkpoint, a substrate, a run of `aevo train` or `aevo pretrain`, its checkpoints/ '
  'or one step of them, a campaign, one of its trials, or a LoRA adapter'
)
CHECKPOINTS = 'checkpoints'
STEP = 'step_'


class ResultError(ValueError):
  """A path that holds no result, or not the one that was asked for; the message says what to do."""


class Base(NamedTuple):
  """A directory with weights, config and tokenizer, in any form."""

  directory: pathlib.Path

  def words(self) -> str:
    """Says what was found."""
    return f'the weights in {self.directory}'


class Training(NamedTuple):
  """A checkpoint of a run that has no export of it.

  Attributes:
    run: of `aevo train` or `aevo pretrain`.
    checkpoints: the folder of its steps.
    step: None for the latest.
  """

  run: pathlib.Path
  checkpoints: pathlib.Path
  step: int | None

  @property
  def pretrained(self) -> bool:
    """Whether `aevo pretrain` trained it."""
    return (self.run / run_directory.PRETRAIN).is_file()

  def words(self) -> str:
    """Says what was found."""
    which = 'the latest step'
    if self.step is not None:
      which = f'step {self.step}'
    return f'{which} of {self.checkpoints}'


class Campaign(NamedTuple):
  """A campaign, which has a winner."""

  run: pathlib.Path

  def words(self) -> str:
    """Says what was found."""
    return f'the winner of the campaign {self.run}'


class Trial(NamedTuple):
  """A trial of a campaign, whose weights are sealed."""

  run: pathlib.Path
  name: str

  def words(self) -> str:
    """Says what was found."""
    return f'the sealed weights of {self.name} in {self.run}'


class Adapter(NamedTuple):
  """A LoRA adapter in PEFT's form, to be merged into its base."""

  directory: pathlib.Path

  def words(self) -> str:
    """Says what was found."""
    return f'the adapter {self.directory}, merged into its base'


Result = Base | Training | Campaign | Trial | Adapter


def find(path: pathlib.Path, step: int | None = None) -> Result:
  """Finds what a path holds.

  Args:
    path: of a directory, or of a safetensors file in one.
    step: of a run's checkpoints; None for the export of a finished run, or the latest step.

  Returns:
    What it is.

  Raises:
    ResultError: none of ours lies there, or the step is none of it.
  """
  path = path.absolute()
  if path.is_file() and path.suffix == '.safetensors':
    path = path.parent
  if path.name == 'export' and (path.parent / 'spec.json').is_file():
    path = path.parent
  found = _run(path, step)
  if isinstance(found, Training):
    _check_step(found)
  elif step is not None:
    raise ResultError(f'--step is of the checkpoints of a run, and {path} holds none; leave it out')
  if found is None:
    found = _directory(path)
  if found is None:
    raise ResultError(f'{path} holds nothing that can be exported; it takes {TAKES}')
  return found


def _run(path: pathlib.Path, step: int | None) -> Result | None:
  """Finds a run, a part of one or a campaign."""
  if path.name.startswith(STEP) and path.parent.name == CHECKPOINTS:
    number = path.name.removeprefix(STEP)
    if not number.isdecimal():
      raise ResultError(f'{path} is no step of a run')
    return _checkpoints(path.parent, int(number))
  if path.name == CHECKPOINTS:
    return _checkpoints(path, step)
  if (path / 'ledger.jsonl').is_file():
    return Campaign(path)
  if (path / 'spec.json').is_file() and (path / 'recipe.gin').is_file():
    return Trial(path.parent.parent, path.name)
  if (path / run_directory.TRAIN).is_file():
    return _train_run(path, step)
  if (path / run_directory.PRETRAIN).is_file():
    if step is None and (path / model_files.WEIGHTS).is_file():
      return Base(path)
    return Training(path, path / 'run' / CHECKPOINTS, step)
  return None


def _train_run(path: pathlib.Path, step: int | None) -> Result:
  if step is None and (path / 'export' / model_files.CONFIG).is_file():
    return Base(path / 'export')
  checkpoints = path / CHECKPOINTS
  if (path / 'then' / CHECKPOINTS).is_dir():
    checkpoints = path / 'then' / CHECKPOINTS
  return Training(path, checkpoints, step)


def _checkpoints(path: pathlib.Path, step: int | None) -> Training:
  """Finds whose checkpoints a folder holds."""
  for owner in (path.parent, path.parent.parent):
    if (owner / run_directory.TRAIN).is_file() or (owner / run_directory.PRETRAIN).is_file():
      return Training(owner, path, step)
    if (owner / 'spec.json').is_file():
      raise ResultError(
        f"{path} are a trial's checkpoints, which nothing seals; give the trial itself, {owner}"
      )
  raise ResultError(
    f'{path} belongs to no run of `aevo train` or `aevo pretrain` (no {run_directory.TRAIN} nor '
    f'{run_directory.PRETRAIN} above it)'
  )


def _check_step(found: Training) -> None:
  """Raises ResultError where the run has no such step."""
  names = []
  if found.checkpoints.is_dir():
    names = sorted(entry.name for entry in found.checkpoints.iterdir() if entry.is_dir())
  steps = [int(name.removeprefix(STEP)) for name in names if name.removeprefix(STEP).isdecimal()]
  if not steps:
    raise ResultError(f'{found.run} has no checkpoint yet; let it train to its first')
  if found.step is not None and found.step not in steps:
    raise ResultError(
      f'{found.checkpoints} has no step {found.step}; it has {", ".join(map(str, steps))}'
    )


def _directory(path: pathlib.Path) -> Result | None:
  """Finds weights that are no run's."""
  if (path / 'manifest.json').is_file() and (path / 'base').is_dir():
    path = path / 'base'
  if (path / model_files.ADAPTER_CONFIG).is_file():
    return Adapter(path)
  for directory in (path, path / 'export'):
    weights = ('checkpoint', model_files.WEIGHTS, model_files.INDEX)
    has_weights = any((directory / name).exists() for name in weights)
    if has_weights and (directory / model_files.CONFIG).is_file():
      return Base(directory)
  return None
