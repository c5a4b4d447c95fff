"""The winner of a campaign, and any sealed trial of one, as a new directory."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable

from aevo_jax import layout, provenance
from aevo_jax.campaign.setup import setup
from aevo_jax.campaign.trial import submission
from aevo_jax.campaign.trial.spec import EXPORT
from aevo_jax.models.hf import checkpoint, front_matter
from aevo_jax.report.audit.audited_run import AuditedRun
from aevo_jax.report.winner import NoWinnerError, Winner
from aevo_jax.substrate import build, code_digest, manifest

ADAPTER = 'adapter'  # the folder of an adapter beside the weights


@dataclasses.dataclass(frozen=True)
class ExportOptions:
  """What is written.

  Attributes:
    base_name: name of the base in the adapter's config; None writes whole weights.
    max_rank: highest LoRA rank that is written; None for no limit.
  """

  base_name: str | None = None
  max_rank: int | None = None

  @property
  def adapter(self) -> bool:
    """Whether an adapter is written instead of whole weights."""
    return self.base_name is not None


def base_model(run: AuditedRun, base: pathlib.Path) -> str:
  """Names the base of a campaign.

  Args:
    run: the campaign.
    base: the stored substrate.

  Returns:
    The name in its config.json, else the directory that the campaign began with.
  """
  named = front_matter.base_name(base)
  if named != str(base):
    return named
  if not run.inputs.get('substrate_root'):
    return f'substrate/{build.BASE} of aevo_jax {run.started["version"]}'
  return base_directory(run)


def base_directory(run: AuditedRun) -> str:
  """Returns where the base lies from which a campaign's substrate was stored, for its adapters."""
  root = run.inputs.get('substrate_root') or layout.root_file('substrate')
  return str(pathlib.Path(root) / build.BASE)


def fill(
  winner: Winner, card: Callable[[str], str], stage: pathlib.Path, options: ExportOptions, base: str
) -> list[str]:
  """Writes weights or adapter, what the base carries beside them, and the card.

  Args:
    winner: whose directory is sealed.
    card: from 'weights' or 'adapter' to the text of README.md.
    stage: directory to make.
    options: which form is written. With whole weights an adapter that was trained lies beside them,
      in adapter/.
    base: directory of the base, for that adapter.

  Returns:
    Remarks for a person.

  Raises:
    NoWinnerError: the trial has no adapter, or one of a higher rank.
  """
  if options.base_name is not None:
    try:
      _fill_adapter(winner, card('adapter'), stage, options)
    except submission.NoSubmissionError as error:
      raise NoWinnerError(f'{error}; without --adapter the weights are exported') from error
    return []
  stage.mkdir()
  shutil.copyfile(winner.directory / EXPORT, stage / checkpoint.WEIGHTS)
  checkpoint.save_config(winner.base, stage)
  _carry(winner, card('weights'), stage)
  if submission.trains_adapter(winner.recipe):
    try:
      _fill_adapter(winner, card('adapter'), stage / ADAPTER, ExportOptions(base))
    except submission.NoSubmissionError as error:
      return [f'no adapter in the export: {error}']
  return []


def _fill_adapter(winner: Winner, card: str, stage: pathlib.Path, options: ExportOptions) -> None:
  """Makes `stage` with the adapter of the trial's sealed checkpoints."""
  submission.write_adapter(
    stage,
    winner.directory,
    winner.base,
    winner.recipe,
    base_name=options.base_name or '',
    max_rank=options.max_rank,
  )
  _carry(winner, card, stage)


def _carry(winner: Winner, card: str, stage: pathlib.Path) -> None:
  """Writes the card, and what the base holds beside weights and config."""
  for name in (*build.CARRIED, *front_matter.LICENSE_FILES):
    if name != checkpoint.CONFIG and (winner.base / name).is_file():
      shutil.copyfile(winner.base / name, stage / name)
  (stage / front_matter.CARD).write_text(card)


def trial_card(run: AuditedRun, winner: Winner, form: str) -> str:
  """Writes the card of a trial that is no winner: where it comes from, and no claim.

  Args:
    run: the campaign.
    winner: the trial.
    form: 'weights' or 'adapter'.
  """
  started = run.started
  tasks = run.constitution.tasks.digest or 'the puzzles that the code generates'
  trial = winner.trial
  code = manifest.read(run.path / setup.SUBSTRATE).code_tree.digest
  head = front_matter.write(
    winner.base,
    base_model=base_model(run, winner.base),
    library_name='peft' if form == 'adapter' else 'transformers',
    provenance={'code': code_of(code), 'version': started['version'], 'tasks': tasks},
  )
  rows = {
    'substrate (base, code and starting recipe)': started['substrate'],
    'base tensors': started['base_digest'],
    'code tree': code,
    'constitution': started['constitution'],
    'tasks': tasks,
    'recipe': trial.recipe,
    'seed': str(trial.seed),
    'sealed trial': run.sealed_digest(trial.trial),
    'tensors of these weights': trial.candidate,
  }
  table = '\n'.join(f'| {name} | `{value}` |' for name, value in rows.items())
  return (
    f'{head}\n# {form.capitalize()} of trial {trial.trial} of a campaign\n\n'
    'No winner: a trial like any other, of which this card claims no score.\n\n'
    f'| what | value |\n|---|---|\n{table}\n'
  )


def code_of(code_tree: str) -> str:
  """Names the code of a campaign by its commit, where that is what lies here.

  Args:
    code_tree: digest of the code that the campaign ran.
  """
  digest, _ = code_digest.code_tree_digest(layout.PACKAGE.parent)
  if digest != code_tree:
    return f'code tree {code_tree}, of a commit that was not recorded'
  return provenance.of_package().words()
