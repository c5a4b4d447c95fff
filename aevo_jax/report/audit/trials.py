"""What ran: every sealed file, and the recipe of every trial."""

from typing import NamedTuple

from safetensors.numpy import load_file

from aevo_jax.campaign.decisions import decisions
from aevo_jax.campaign.decisions.decisions import FINAL
from aevo_jax.campaign.decisions.state import TrialState
from aevo_jax.campaign.trial.gate import RecipeRefusedError, full_recipe
from aevo_jax.campaign.trial.spec import EXPORT, TrialSpec, trial_seed
from aevo_jax.checkpoint import digest as digest_lib
from aevo_jax.config.statements import render
from aevo_jax.report.audit.audited_run import AuditedRun, sha256


class Assigned(NamedTuple):
  """What the policies assign to a trial. seed_name: the name that its seed is made of."""

  axis: str
  overlay: str
  seed_name: str


def check_seals(run: AuditedRun) -> str:
  """Checks every file of every sealed trial, and the candidate's tensors.

  Args:
    run: the trials that fail join its `broken`.

  Returns:
    The number of sealed trials.
  """
  for trial in run.sealed():
    before = len(run.problems)
    _check_seal(run, trial)
    if len(run.problems) > before:
      run.broken.add(trial.trial)
  return (
    f'{len(run.sealed())} sealed trials, every file as sealed, every candidate the recorded one'
  )


def _check_seal(run: AuditedRun, trial: TrialState) -> None:
  directory = run.trial_directory(trial)
  name = f'trials/{trial.trial}'
  if not directory.is_dir():
    run.problems.append(f'{name} is missing')
    return
  files = digest_lib.file_manifest(directory)
  if digest_lib.manifest_digest(files) != run.sealed_digest(trial.trial):
    run.problems.append(f'{name} is not what was sealed{run.which_changed(trial, files)}')
    return
  same_file = files.get(str(EXPORT)) == trial.export_file
  run.expect(
    same_file and digest_lib.logical_digest(load_file(directory / EXPORT)) == trial.candidate,
    f'{name}: the recorded candidate is not the sealed one',
  )


def check_recipes(run: AuditedRun) -> str:
  """Checks that each trial ran the default recipe under what its policy assigned.

  Args:
    run: a run with the constitution it began with; files of trials in its `broken` are left out.

  Returns:
    The number of recipes.
  """
  for trial in run.state.trials.values():
    assigned = assignment(run, trial)
    if assigned is None:
      run.problems.append(f'{trial.trial} is in no policy')
    else:
      _check_recipe(run, trial, assigned)
  return (
    f'{len(run.state.trials)} recipes are gate(overlay) over the starting recipe, as their '
    'policies assigned'
  )


def _check_recipe(run: AuditedRun, trial: TrialState, assigned: Assigned) -> None:
  name = trial.trial
  run.expect(
    trial.axis == assigned.axis,
    f'{name} ran on axis {trial.axis}, assigned was {assigned.axis}',
  )
  run.expect(
    trial.seed == trial_seed(run.started['seed'], assigned.seed_name),
    f'{name} has a seed that is not its own',
  )
  try:
    bindings = run.admitted(assigned.overlay, trial.round)
  except RecipeRefusedError as error:
    run.expect(
      trial.status == 'refused' and trial.cause == str(error),
      f'{name} should have been refused: {error}',
    )
    return
  recipe = full_recipe(bindings, run.started['recipe'])
  run.expect(
    trial.overlay == render(bindings),
    f'{name} ran another overlay than its policy assigned',
  )
  run.expect(
    trial.recipe == sha256(recipe),
    f'{name} ran another recipe than the default under its overlay',
  )
  directory = run.trial_directory(trial)
  if name in run.broken or not directory.is_dir():
    return
  run.expect(
    TrialSpec.read(directory) == run.spec(trial),
    f"trials/{name}/spec.json is not the trial's input",
  )
  for file, text in (('recipe.gin', recipe), ('overlay.gin', trial.overlay)):
    run.expect(
      (directory / file).read_text() == text,
      f'trials/{name}/{file} is not what was assigned',
    )


def assignment(run: AuditedRun, trial: TrialState) -> Assigned | None:
  """Finds what the policies assign to a trial.

  Args:
    run: the run of the trial.
    trial: a trial of a round or of the final.

  Returns:
    The assignment, None where no policy has the trial.
  """
  if trial.round == FINAL:
    return _retraining(run, trial)
  policy = run.chosen(trial.round)
  expected_name = f'r{trial.round}w{trial.worker}'
  if trial.worker >= len(policy.assignments) or trial.trial != expected_name:
    return None
  axis = policy.assignments[trial.worker].axis
  return Assigned(axis, policy.overlay(trial.worker), trial.trial)


def _retraining(run: AuditedRun, trial: TrialState) -> Assigned | None:
  # Until the last policy is written, only the starting recipe is known.
  last = run.policies.get(run.last_round + 1)
  standing = {}
  if last:
    standing = last.standing
  for retraining in decisions.retrainings(
    standing, run.constitution.budget.final_seeds, manual=run.manual
  ):
    known = last or retraining.recipe == 'starting'
    if known and (retraining.trial, retraining.worker) == (trial.trial, trial.worker):
      return Assigned(retraining.recipe, retraining.overlay, retraining.seed_name)
  return None
