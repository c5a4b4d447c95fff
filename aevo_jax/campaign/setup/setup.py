"""The setup of a campaign: what exists before its first record.

The substrate is stored, the holdout committed, and the constitution frozen in the run directory.
"""

import dataclasses
import json
import pathlib
import secrets

from aevo_jax import layout
from aevo_jax.campaign.sandbox import confinement
from aevo_jax.campaign.setup import starting_recipe, validation
from aevo_jax.campaign.setup.settings import CampaignSettings, Inputs
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config.constitution import Constitution
from aevo_jax.config.statements import parse_statements
from aevo_jax.data import chat_template, corpus
from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.evaluation import probes, sets
from aevo_jax.evaluation.servers import arbiter
from aevo_jax.models.hf import checkpoint
from aevo_jax.substrate import build, manifest
from aevo_jax.substrate.store import Store
from aevo_jax.tasks import own_data
from aevo_jax.tasks.own_data import OwnTasks, TaskFileError
from aevo_jax.training.recipe.recipe import Train

INPUTS = 'inputs.json'
SETTINGS = 'settings.json'
CONSTITUTION = 'constitution.gin'
LEDGER = 'ledger.jsonl'
# The digests behind the substrate's identity, file by file.
SUBSTRATE = 'substrate.json'


class RunDirectoryError(ValueError):
  """The run directory cannot be used like this; the message names the fix."""


def with_tasks(constitution: Constitution) -> Constitution:
  """Enters the digest of the tasks that tasks.path names.

  Args:
    constitution: returned as it is where it has puzzles.

  Raises:
    UnknownVerifierError, TaskFileError: see `sets.own_tasks`.
  """
  tasks = sets.own_tasks(constitution, tasks_path(constitution.tasks.path))
  return constitution if tasks is None else constitution.with_tasks(tasks.digest)


def tasks_path(name: str) -> pathlib.Path:
  """Finds what tasks.path names.

  Args:
    name: a path from the working directory, or beside the project's configs like a gin file.

  Returns:
    The first that exists, else `name`.
  """
  for folder in ('', *layout.search_paths()):
    path = pathlib.Path(folder) / name
    if path.exists():
      return path
  return pathlib.Path(name)


def prepare(
  run: pathlib.Path,
  constitution: Constitution,
  settings: CampaignSettings,
  substrate_root: pathlib.Path | None = None,
) -> Inputs:
  """Makes the run directory and freezes its inputs.

  Args:
    run: does not exist yet.
    constitution: without a commitment.
    settings: of the campaign.
    substrate_root: the substrate's folder; the project's if not given.

  Raises:
    InvalidCampaignError: see `validation.check`.
    RunDirectoryError: it exists, or lies where workers read and would hold private tasks.
    SubstrateMismatchError: the substrate is not the pinned one.
    TaskFileError, ChatTemplateError: tasks of one's own or the base's chat format cannot be used.
    ProbeError: see `probes.build`.
  """
  if run.exists():
    raise RunDirectoryError(f'{run} exists; resume it with --resume={run}, or choose another --run')
  constitution = with_tasks(constitution)
  tasks = sets.own_tasks(constitution, tasks_path(constitution.tasks.path))
  if tasks is not None:
    _check_out_of_reach(run)
  home = arbiter.default_home()
  holdout = _holdout(constitution, settings)
  secret = arbiter.holdout_secret(home, holdout) if holdout else b''
  frozen = constitution.committed(sets.commitment(secret)) if holdout else constitution
  run = run.absolute()
  root = _substrate_root(substrate_root)
  _check(constitution, settings, root, tasks, secret)
  store = Store(run.parent / '.store')
  measured = build.measure(root, pathlib.Path(layout.__file__).parent.parent)
  stored = build.build(root, measured, store, _training_tasks(tasks))
  inputs = Inputs(
    constitution=frozen,
    holdout=holdout,
    arbiter_campaign=f'{run.name}-{secrets.token_hex(4)}',
    store=str(store.root),
    substrate_object=stored.object,
    substrate_identity=stored.identity,
    base_digest=measured.base_checkpoint.logical_digest,
    recipe=starting_recipe.text(constitution, stored.recipe),
    cache=str(run.parent / '.jit_cache'),
    arbiter_home=str(home),
    substrate_root='' if substrate_root is None else str(root),
  )
  _freeze(run, inputs, settings)
  if tasks is not None:
    (run / sets.TASKS).write_text(tasks.text())
  manifest.write(run / SUBSTRATE, measured)
  # As a resumed controller or an audit will read them: the order of the axes in the operator's gin
  # must not steer an agent.
  return reload(run)[0]


def _holdout(constitution: Constitution, settings: CampaignSettings) -> str:
  """Names the holdout; '' for a manual arbiter, who has a target of another kind.

  Then no private set is drawn, and nothing is committed to.
  """
  if settings.arbiter == 'manual':
    return ''
  return f'{constitution.digest()[:16]}-{settings.seed}'


def _check(
  constitution: Constitution,
  settings: CampaignSettings,
  root: pathlib.Path,
  tasks: OwnTasks | None,
  secret: bytes,
) -> None:
  """Checks that settings, recipe, tasks and probes go together."""
  recipe = starting_recipe.text(constitution, (root / build.RECIPE).read_text())
  validation.check(
    constitution,
    settings.agent,
    recipe,
    arbiter=settings.arbiter,
    workers_choose=settings.workers_choose,
  )
  if tasks is not None:
    sets.check_own(constitution, tasks, secret)
    _check_fit(constitution, tasks, root / build.BASE, recipe)
  if constitution.starting_recipe.bindings:
    starting_recipe.check(constitution, recipe, root / build.BASE, tasks)
  # A probe that its items cannot be shown in is an error now.
  probes.build(constitution, tasks)


def _training_tasks(tasks: OwnTasks | None) -> str:
  return '' if tasks is None else own_data.jsonl(tasks.of_split('train'))


def _substrate_root(substrate_root: pathlib.Path | None) -> pathlib.Path:
  root = (substrate_root or layout.root_file('substrate')).absolute()
  if not (root / build.MANIFEST).is_file():
    raise build.SubstrateMismatchError(
      f'{root} is no substrate: it has no {build.MANIFEST}; make one with: aevo substrate '
      f'build --from_hf=DIRECTORY --out={root}'
    )
  return root


def _freeze(run: pathlib.Path, inputs: Inputs, settings: CampaignSettings) -> None:
  """Makes the run directory with what `reload` reads."""
  run.mkdir(parents=True)
  pathlib.Path(inputs.cache).mkdir(exist_ok=True)
  (run / CONSTITUTION).write_text(inputs.constitution.text())
  (run / SETTINGS).write_text(json.dumps(dataclasses.asdict(settings), indent=1) + '\n')
  fields = dataclasses.asdict(inputs)
  del fields['constitution']
  (run / INPUTS).write_text(json.dumps(fields, indent=1) + '\n')


def _check_out_of_reach(run: pathlib.Path) -> None:
  """Checks that confined workers cannot read the run directory, which will hold private tasks."""
  package = pathlib.Path(layout.__file__).parent
  for readable in (*confinement.system_read_paths(), package):
    if run.resolve().is_relative_to(readable.resolve()):
      raise RunDirectoryError(
        f'{run} lies beneath {readable}, which locked workers may read, and it would hold '
        'the private tasks; choose a --run outside of it'
      )


def _check_fit(
  constitution: Constitution, tasks: OwnTasks, base: pathlib.Path, recipe: str
) -> None:
  """Checks that the tasks fit the base and the rows of the starting recipe."""
  bindings = {b.selector: b.value for b in parse_statements(recipe)}
  corpus.check_fit(
    tasks,
    chat_template.read(str(base)),
    tokenizers.load(str(base)),
    row_length=bindings.get('train.row_length', Train.row_length),
    max_new_tokens=constitution.objective.max_new_tokens,
    max_positions=checkpoint.read_config(base).max_position_embeddings,
    verifier=constitution.objective.verifier,
  )


def reload(run: pathlib.Path) -> tuple[Inputs, CampaignSettings]:
  """Reads the frozen inputs of an existing run.

  Args:
    run: the run directory.

  Raises:
    RunDirectoryError: not a run directory, or its frozen tasks were changed.
  """
  missing = [name for name in (INPUTS, SETTINGS, CONSTITUTION) if not (run / name).exists()]
  if missing:
    raise RunDirectoryError(
      f'{run} is not a run: it has no {", ".join(missing)}; start one with --run={run}'
    )
  constitution = constitution_lib.read(run / CONSTITUTION)
  try:
    sets.own_tasks(constitution, run / sets.TASKS)
  except TaskFileError as error:
    raise RunDirectoryError(str(error)) from error
  inputs = Inputs(constitution=constitution, **json.loads((run / INPUTS).read_text()))
  settings = CampaignSettings(**json.loads((run / SETTINGS).read_text()))
  return inputs, settings
