"""What a run began with: constitution, secret, settings, substrate, tasks, code and confinement."""

import json
import pathlib

from aevo_jax import layout
from aevo_jax.campaign.setup import setup, starting_recipe
from aevo_jax.checkpoint import digest as digest_lib
from aevo_jax.evaluation import sets
from aevo_jax.report.audit.audited_run import BASE, AuditedRun, sha256
from aevo_jax.report.audit.findings import (
  AuditWarning,
  NotApplicableError,
  NotYetError,
  summarize,
)
from aevo_jax.substrate import build, manifest
from aevo_jax.substrate.store import Store
from aevo_jax.tasks import own_data

# Field of inputs.json -> field of the first record.
_INPUTS = {
  'holdout': 'holdout',
  'substrate_object': 'substrate_object',
  'substrate_identity': 'substrate',
  'base_digest': 'base_digest',
  'recipe': 'recipe',
}


def check_constitution(run: AuditedRun) -> str:
  """Checks that the file is the one the first record names.

  Args:
    run: a run with an intact ledger.

  Returns:
    The start of the digest.
  """
  text = (run.path / setup.CONSTITUTION).read_text()
  recorded = run.started['constitution']
  run.expect(
    sha256(text) == recorded,
    f'{setup.CONSTITUTION} has digest {sha256(text)[:12]}, and the campaign started with '
    f'{recorded[:12]}',
  )
  if not run.problems:
    run.expect(run.constitution.text() == text, f'{setup.CONSTITUTION} is not canonical')
  return f'digest {recorded[:12]}, as in the first record'


def check_commitment(run: AuditedRun) -> str:
  """Checks that the revealed secret is the one the constitution committed to.

  Args:
    run: a run with the constitution it began with.

  Returns:
    The start of the commitment.

  Raises:
    NotApplicableError: somebody else scored the campaign.
    NotYetError: the secret is not revealed.
  """
  if run.manual:
    raise NotApplicableError('somebody else scored this campaign: it has no holdout')
  committed = run.constitution.holdout.commitment
  run.expect(
    committed == run.started['commitment'],
    'constitution and first record hold different commitments',
  )
  if run.state.revealed is None:
    raise NotYetError('the secret is not revealed before the final score')
  run.expect(
    sets.commitment(run.secret) == committed,
    'the revealed secret is not the one the constitution committed to',
  )
  return f'SHA-256 of the revealed secret is the commitment {committed[:12]}'


def check_inputs(run: AuditedRun) -> str:
  """Checks that inputs.json and settings.json say what the first record says.

  Args:
    run: a run with the constitution it began with.

  Returns:
    The campaign's seed and agent.
  """
  settings = json.loads((run.path / setup.SETTINGS).read_text())
  run.expect(settings == run.started['settings'], f'{setup.SETTINGS} differs from the first record')
  run.expect(settings.get('seed') == run.started['seed'], 'two seeds')
  for field, recorded in _INPUTS.items():
    run.expect(
      run.inputs[field] == run.started[recorded],
      f'{setup.INPUTS}: {field} differs from the first record',
    )
  return f'seed {run.started["seed"]}, agent {run.started["settings"]["agent"]}'


def check_substrate(run: AuditedRun) -> str:
  """Checks the stored substrate: it is whole, and holds the recorded base and starting recipe.

  Args:
    run: 'base' joins its `broken` where the file that was scored is another base.

  Returns:
    The starts of the digests, and the number of base tensors.

  Raises:
    FileNotFoundError: the store is gone.
  """
  name = run.started['substrate_object']
  identity = run.started['substrate']
  base_digest = run.started['base_digest']
  if not pathlib.Path(run.inputs['store']).is_dir():
    raise FileNotFoundError(
      f'the substrate store {run.inputs["store"]} is gone; restore it beside the run'
    )
  path = Store(run.inputs['store']).verify(name)
  tensors = build.load_base(path, logical_digest=base_digest)
  run.expect(
    starting_recipe.text(run.constitution, (path / build.RECIPE).read_text())
    == run.started['recipe'],
    'the stored recipe, with what the constitution binds, is not the starting recipe of the first '
    'record',
  )
  measured = manifest.read(run.path / setup.SUBSTRATE)
  run.expect(
    build.identity(measured) == identity,
    f'{setup.SUBSTRATE} is not what the identity {identity[:12]} was made of',
  )
  run.expect(
    measured.base_checkpoint.logical_digest == base_digest,
    f'{setup.SUBSTRATE} names another base',
  )
  for file in build.CARRIED:
    run.expect(
      digest_lib.file_digest(path / file) == measured.base_checkpoint.files[file],
      f'the stored {file} is not the pinned one',
    )
  if run.base.exists() and build.weights_digest(run.base, path) != base_digest:
    run.problems.append(f'{run.base.name}, which was scored, is not the base')
    run.broken.add(BASE)
  return f'identity {identity[:12]}, stored object {name[:12]}, {len(tensors)} base tensors'


def check_tasks(run: AuditedRun) -> str:
  """Checks tasks of a user: the frozen ones have the constitution's digest.

  Workers were given the train split and nothing else.

  Args:
    run: reading its tasks raises TaskFileError where they have another digest.

  Returns:
    The number of tasks and of those that workers had, or that there are puzzles.
  """
  stored = Store(run.inputs['store']).path(run.started['substrate_object']) / build.TRAIN
  tasks = run.own_tasks
  if tasks is None:
    run.expect(
      not stored.exists(),
      f'the stored substrate holds {build.TRAIN}, on which workers train, and the '
      'constitution names no tasks',
    )
    return 'puzzles, generated by the code'
  train = tasks.of_split('train')
  run.expect(
    stored.is_file() and stored.read_text() == own_data.jsonl(train),
    f'the stored {build.TRAIN} is not the train split of {sets.TASKS}',
  )
  return (
    f'{len(tasks.items)} tasks with digest {tasks.digest[:12]}; workers were given the '
    f'{len(train)} of the train split'
  )


def check_code(run: AuditedRun) -> str:
  """Compares the code and base of this checkout with the run's.

  Args:
    run: its `measure` is given this checkout.

  Returns:
    That they are the run's.

  Raises:
    AuditWarning: they differ, or the substrate's folder is gone.
  """
  root = pathlib.Path(run.inputs.get('substrate_root') or layout.root_file('substrate'))
  if not root.is_dir():
    raise AuditWarning(
      f"the substrate's folder {root} is gone, so that the code here was not compared "
      "with the run's; the stored copy is checked above"
    )
  measured = run.measure(root, pathlib.Path(layout.__file__).resolve().parent.parent)
  differences = manifest.check(manifest.read(run.path / setup.SUBSTRATE), measured)
  if differences:
    raise AuditWarning(
      "code differs from the run's, which may by itself fail checks below: "
      f'{summarize(differences)}'
    )
  return "the code, base and recipe here are the run's"


def check_confinement(run: AuditedRun) -> str:
  """Tells whether workers could have reached more than their directories.

  Args:
    run: a run with an intact ledger.

  Returns:
    That they could not.

  Raises:
    AuditWarning: they could.
  """
  if not run.started['locked']:
    raise AuditWarning(
      'workers were not confined (see `aevo doctor`): the run shows what they claim, not '
      'that they could do no more'
    )
  return 'workers were confined'
