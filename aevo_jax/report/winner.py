"""The winner of a finished run: the weights that may be handed out, if they are still sealed.

Several seeds of the promoted recipe were retrained, and only the final set has looked at them.
Whoever took the best of them by that set would spoil its score; so the winner is the first seed,
which was fixed before anything was scored: promoted0, or the next one if that could not be trained.
"""

import dataclasses
import pathlib
from typing import Any

from safetensors.numpy import load_file

from aevo_jax.campaign.decisions import decisions
from aevo_jax.campaign.decisions.state import TrialState
from aevo_jax.campaign.setup import setup
from aevo_jax.campaign.trial.gate import full_recipe
from aevo_jax.campaign.trial.spec import EXPORT
from aevo_jax.checkpoint import digest as digest_lib
from aevo_jax.checkpoint.run_directory import no_campaign
from aevo_jax.config.nearest import suggestion
from aevo_jax.config.statements import parse_statements
from aevo_jax.report.audit.audited_run import AuditedRun, sha256
from aevo_jax.substrate import build, manifest
from aevo_jax.substrate.store import Store


class NoWinnerError(ValueError):
  """The run has no weights to hand out, or not the sealed ones; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Winner:
  """The weights to hand out.

  Attributes:
    trial: the retraining.
    promoted: False for the starting recipe.
    directory: of the sealed trial.
    base: the stored substrate with config and tokenizer.
    recipe: the complete recipe of the training, as gin text.
  """

  trial: TrialState
  promoted: bool
  directory: pathlib.Path
  base: pathlib.Path
  recipe: str


def find(run: AuditedRun, *, starting: bool = False) -> Winner:
  """Finds the winner and verifies its seal.

  Args:
    run: a finished run.
    starting: take the first retraining of the starting recipe instead.

  Returns:
    The winner.

  Raises:
    NoWinnerError: unfinished, nothing promoted and `starting` not asked for, nothing trained, or
      files that are missing or were changed.
    LedgerError, ManifestError: the ledger or the stored substrate is damaged.
  """
  promoted = _promoted(run)
  if not promoted and not starting and not run.manual:
    raise NoWinnerError(
      f'{run.path} promoted nothing: no change cleared the noise floor, and the starting '
      'recipe stands. To export a retraining of that, labelled as such: --starting'
    )
  if sha256((run.path / setup.CONSTITUTION).read_text()) != run.started['constitution']:
    raise NoWinnerError(
      f'{run.path / setup.CONSTITUTION} is not the one the run began with; see: aevo audit '
      f'{run.path}'
    )
  _check_substrate(run)
  trial = _first_seed(run, promoted, starting=starting)
  directory = run.trial_directory(trial)
  _check_seal(run, trial, directory)
  return Winner(
    trial=trial,
    promoted=not starting,
    directory=directory,
    base=Store(run.inputs['store']).verify(run.started['substrate_object']),
    recipe=full_recipe(parse_statements(trial.overlay), run.started['recipe']),
  )


def sealed_trial(run: AuditedRun, name: str) -> Winner:
  """Finds any trial's weights and verifies their seal.

  Args:
    run: the campaign, finished or not.
    name: of the trial.

  Returns:
    The trial; nothing says that it won.

  Raises:
    NoWinnerError: there is no such trial, it has no sealed weights, or they were changed.
  """
  trial = run.state.trials.get(name)
  if trial is None:
    raise NoWinnerError(f'{run.path} has no trial {name!r}{suggestion(name, run.state.trials)}')
  if trial.status != 'sealed':
    raise NoWinnerError(
      f'{name} of {run.path} has no sealed weights: it is {trial.status}; see: aevo trial '
      f'{run.path} {name}'
    )
  _check_substrate(run)
  directory = run.trial_directory(trial)
  _check_seal(run, trial, directory)
  return Winner(
    trial=trial,
    promoted=False,
    directory=directory,
    base=Store(run.inputs['store']).verify(run.started['substrate_object']),
    recipe=full_recipe(parse_statements(trial.overlay), run.started['recipe']),
  )


def _promoted(run: AuditedRun) -> dict[str, Any]:
  """The standing recipe at the end; raises NoWinnerError where there is no end."""
  if not (run.path / setup.LEDGER).is_file():
    raise NoWinnerError(no_campaign(run.path, [setup.LEDGER]))
  if run.state.finished is None:
    raise NoWinnerError(
      f'{run.path} is unfinished; finish it with: aevo campaign --resume={run.path}'
    )
  return run.policies[run.last_round + 1].standing


def _check_substrate(run: AuditedRun) -> None:
  """Raises NoWinnerError unless substrate.json is of the substrate that the run began with.

  One of its digests goes into the model card.
  """
  path = run.path / setup.SUBSTRATE
  try:
    identity = build.identity(manifest.read(path))
  except FileNotFoundError as error:
    raise NoWinnerError(f'{path} is missing; restore it from a copy of the run') from error
  except manifest.SubstrateManifestError as error:
    raise NoWinnerError(f'{error}; restore it from a copy of the run') from error
  if identity != run.started['substrate']:
    raise NoWinnerError(
      f'{path} is not the substrate that the run began with; restore it from a copy of the run'
    )


def _first_seed(run: AuditedRun, promoted: dict[str, Any], *, starting: bool) -> TrialState:
  """The first retraining of the recipe that was trained to its end."""
  recipe = 'starting' if starting else 'promoted'
  seeds = run.constitution.budget.final_seeds
  retrainings = decisions.retrainings(promoted, seeds, manual=run.manual)
  names = [retraining.trial for retraining in retrainings if retraining.recipe == recipe]
  if not names:
    raise NoWinnerError(
      f'{run.path} was scored by somebody else, so that only its standing recipe was '
      'retrained; export it without --starting'
    )
  for name in names:
    trial = run.state.trials.get(name)
    if trial is not None and _usable(run, trial):
      return trial
  raise NoWinnerError(
    f'no retraining of the {recipe} recipe could be scored in {run.path}; see: aevo '
    f'trial {run.path} {names[0]}'
  )


def _usable(run: AuditedRun, trial: TrialState) -> bool:
  if run.manual:
    return trial.status == 'sealed'
  return trial.final_scored


def _check_seal(run: AuditedRun, trial: TrialState, directory: pathlib.Path) -> None:
  """Raises NoWinnerError unless the files are the sealed ones."""
  export = directory / EXPORT
  if not export.is_file():
    raise NoWinnerError(f'{export} is missing; restore it from a copy of the run')
  files = digest_lib.file_manifest(directory)
  if digest_lib.manifest_digest(files) != run.sealed_digest(trial.trial):
    raise NoWinnerError(
      f'{directory} is not what was sealed{run.which_changed(trial, files)}; restore it '
      'from a copy of the run'
    )
  if digest_lib.logical_digest(load_file(export)) != trial.candidate:
    raise NoWinnerError(f'{export} is not the candidate in the ledger; see: aevo audit {run.path}')
