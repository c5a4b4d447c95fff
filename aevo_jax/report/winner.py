"""The winner of a finished run: which weights may be handed out, and whether they are still the
sealed ones.

Several seeds of the promoted recipe were retrained, and only the final set has looked at them.
Whoever took the best of them by that set would spoil its score; so the winner is the first seed,
which was fixed before anything was scored: promoted0, or the next one if that could not be trained.
"""

import dataclasses
import pathlib

from safetensors.numpy import load_file

from aevo_jax.campaign import decisions, setup
from aevo_jax.campaign.state import TrialState
from aevo_jax.campaign.trial.gate import full_recipe
from aevo_jax.campaign.trial.spec import EXPORT
from aevo_jax.checkpoint import digest as digest_lib
from aevo_jax.config.statements import parse_statements
from aevo_jax.report.audit.audited_run import AuditedRun, sha256
from aevo_jax.substrate import build, manifest
from aevo_jax.substrate.store import Store


class NoWinnerError(ValueError):
  """The run has no weights to hand out, or not the sealed ones; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Winner:
  """trial: the retraining. promoted: False for the starting recipe. directory: of the sealed trial.
  base: the stored substrate with config and tokenizer. recipe: what was trained, in full."""

  trial: TrialState
  promoted: bool
  directory: pathlib.Path
  base: pathlib.Path
  recipe: str


def find(run: AuditedRun, *, starting: bool = False) -> Winner:
  """The winner, its seal verified; with `starting` the first retraining of the starting recipe
  instead.

  Raises:
    NoWinnerError: unfinished, nothing promoted and `starting` not asked for, nothing trained, or
      files that are missing or were changed.
    LedgerError, ManifestError: the ledger or the stored substrate is damaged.
  """
  if not (run.path / setup.LEDGER).is_file():
    raise NoWinnerError(f'{run.path} is not a run: it has no {setup.LEDGER}')
  if run.state.finished is None:
    raise NoWinnerError(
      f'{run.path} is unfinished; finish it with: aevo campaign --resume={run.path}'
    )
  promoted = run.policies[run.last_round + 1].standing
  if not promoted and not starting and not run.manual:
    raise NoWinnerError(
      f'{run.path} promoted nothing: no change cleared the noise floor, and the starting '
      'recipe stands. To export a retraining of that, labelled as such: --starting'
    )
  if sha256((run.path / setup.CONSTITUTION).read_text()) != run.started['constitution']:
    raise NoWinnerError(
      f'{run.path / setup.CONSTITUTION} is not the one the run began with; see: aevo audit {run.path}'
    )
  _check_substrate(run)
  wanted = 'starting' if starting else 'promoted'
  names = [
    r.trial
    for r in decisions.retrainings(promoted, run.constitution.budget.final_seeds, manual=run.manual)
    if r.recipe == wanted
  ]
  if not names:
    raise NoWinnerError(
      f'{run.path} was scored by somebody else, so that only its standing recipe was '
      'retrained; export it without --starting'
    )
  usable = lambda t: t.status == 'sealed' if run.manual else t.final_scored
  sealed = [
    run.state.trials[name]
    for name in names
    if name in run.state.trials and usable(run.state.trials[name])
  ]
  if not sealed:
    raise NoWinnerError(
      f'no retraining of the {wanted} recipe could be scored in {run.path}; see: aevo '
      f'trial {run.path} {names[0]}'
    )
  trial = sealed[0]
  directory = run.trial_directory(trial)
  if not (directory / EXPORT).is_file():
    raise NoWinnerError(f'{directory / EXPORT} is missing; restore it from a copy of the run')
  files = digest_lib.file_manifest(directory)
  if digest_lib.manifest_digest(files) != run.sealed_digest(trial.trial):
    raise NoWinnerError(
      f'{directory} is not what was sealed{run.which_changed(trial, files)}; restore it '
      'from a copy of the run'
    )
  if digest_lib.logical_digest(load_file(directory / EXPORT)) != trial.candidate:
    raise NoWinnerError(
      f'{directory / EXPORT} is not the candidate in the ledger; see: aevo audit {run.path}'
    )
  base = Store(run.inputs['store']).verify(run.started['substrate_object'])
  return Winner(
    trial,
    not starting,
    directory,
    base,
    full_recipe(parse_statements(trial.overlay), run.started['recipe']),
  )


def _check_substrate(run: AuditedRun) -> None:
  """Whether the digests in substrate.json, one of which goes into the card, are the substrate's
  that the run began with; raises NoWinnerError.
  """
  path = run.path / setup.SUBSTRATE
  try:
    found = build.identity(manifest.read(path))
  except FileNotFoundError as error:
    raise NoWinnerError(f'{path} is missing; restore it from a copy of the run') from error
  except manifest.SubstrateManifestError as error:
    raise NoWinnerError(f'{error}; restore it from a copy of the run') from error
  if found != run.started['substrate']:
    raise NoWinnerError(
      f'{path} is not the substrate that the run began with; restore it from a copy of the run'
    )
