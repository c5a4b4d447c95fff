"""The setup of a campaign: what exists before its first record.

The substrate is stored, the holdout committed, and the constitution frozen in the run directory.
"""

import dataclasses
import functools
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable
from typing import NamedTuple

from aevo_jax import layout
from aevo_jax.campaign.machine import allowance
from aevo_jax.campaign.machine.probes import Machine
from aevo_jax.campaign.sandbox import confinement
from aevo_jax.campaign.setup import dead_axes, preflight, starting_recipe, validation
from aevo_jax.campaign.setup.settings import CampaignSettings, Inputs
from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.checkpoint import run_directory
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config.constitution import Constitution
from aevo_jax.config.nearest import suggestion
from aevo_jax.config.statements import parse_statements
from aevo_jax.data import chat_template, corpus
from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.evaluation import probes, sets
from aevo_jax.evaluation.servers import arbiter
from aevo_jax.meta_agent.drift import detectable
from aevo_jax.meta_agent.llm.chat_client import ChatClient
from aevo_jax.meta_agent.llm.settings import LlmSettings
from aevo_jax.models.hf import checkpoint
from aevo_jax.substrate import build, manifest
from aevo_jax.substrate.store import Store
from aevo_jax.tasks import own_data
from aevo_jax.tasks.mixture import FAMILIES
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
  """Enters the digest of the tasks that tasks.path names, and leaves out axes that they make dead.

  Args:
    constitution: returned as it is where it has puzzles.

  Raises:
    UnknownVerifierError, TaskFileError: see `sets.own_tasks`.
    InvalidCampaignError: see `dead_axes.without`.
  """
  tasks = sets.own_tasks(constitution, tasks_path(constitution.tasks.path))
  if tasks is None:
    return constitution
  selectors = list(dead_axes.dead(constitution, tasks.of_split('train')))
  return dead_axes.without(constitution.with_tasks(tasks.digest), selectors)


def dead_bindings(constitution: Constitution) -> dict[str, str]:
  """Finds what `with_tasks` leaves out of the search space.

  Args:
    constitution: as it was written.

  Returns:
    selector -> why.
  """
  tasks = sets.own_tasks(constitution, tasks_path(constitution.tasks.path))
  if tasks is None:
    return {}
  return dead_axes.dead(constitution, tasks.of_split('train'))


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
  machine: Machine | None = None,
) -> Inputs:
  """Makes the run directory and freezes its inputs.

  Args:
    run: does not exist yet.
    constitution: without a commitment.
    settings: of the campaign.
    substrate_root: the substrate's folder; the project's if not given.
    machine: that the campaign will run on; this one's if not given.

  Raises:
    InvalidCampaignError: see `validation.check` and `preflight`.
    SeveralMistakesError: more than one thing is wrong.
    OSError: the disk refuses a file; the run directory is then removed again.
    RunDirectoryError: it exists, or lies where workers read and would hold private tasks.
    SubstrateMismatchError: the substrate is not the pinned one.
    TaskFileError, ChatTemplateError: tasks of one's own or the base's chat format cannot be used.
    ProbeError: see `probes.build`.
  """
  check_needed(run, constitution, substrate_root)
  constitution = with_tasks(constitution)
  tasks = sets.own_tasks(constitution, tasks_path(constitution.tasks.path))
  home = arbiter.default_home()
  holdout = _holdout(constitution, settings)
  secret = arbiter.holdout_secret(home, holdout) if holdout else b''
  frozen = constitution.committed(sets.commitment(secret)) if holdout else constitution
  root = find_substrate(substrate_root)
  given = Given(run, constitution, settings, root, tasks, machine or Machine())
  validation.together(
    functools.partial(check, given, secret), functools.partial(_check_llm, settings)
  )
  run = run.absolute()
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
  try:
    _freeze(run, inputs, settings)
    if tasks is not None:
      (run / sets.TASKS).write_text(tasks.text())
    manifest.write(run / SUBSTRATE, measured)
  except OSError:
    shutil.rmtree(run, ignore_errors=True)
    raise
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


def check_needed(
  run: pathlib.Path | None, constitution: Constitution, substrate_root: pathlib.Path | None
) -> None:
  """Checks what every other check needs: that tasks and substrate can be read.

  Args:
    run: where, see `Given`; what is wrong there is said beside the rest.
    constitution: as it was written.
    substrate_root: as in `prepare`.

  Raises:
    ValueError: see `prepare`.
  """
  needed = [
    functools.partial(with_tasks, constitution),
    functools.partial(find_substrate, substrate_root),
  ]
  if not validation.mistakes(*needed):
    return
  if run is not None:
    needed.append(functools.partial(_check_place, run, constitution))
  validation.together(*needed)


class Given(NamedTuple):
  """What a campaign is to start with.

  Attributes:
    run: where; None where a dry run names no place.
    constitution: with the tasks' digest.
    settings: of the campaign.
    root: of the substrate; None where there is none yet and a dry run estimates its model.
    tasks: the user's; None for puzzles.
    machine: that it would run on.
  """

  run: pathlib.Path | None
  constitution: Constitution
  settings: CampaignSettings
  root: pathlib.Path | None
  tasks: OwnTasks | None
  machine: Machine


def families(tasks: OwnTasks | None) -> tuple[str, ...]:
  """Lists the families that dev tells apart.

  Args:
    tasks: the user's; None for puzzles.
  """
  if tasks is None:
    return tuple(FAMILIES)
  return tuple(sorted({item.family for item in tasks.items}))


def _check_unprotected(given: Given) -> None:
  """Checks that what `promotion.unprotected` names are families."""
  names = families(given.tasks)
  for name in given.constitution.promotion.unprotected:
    if name not in names:
      raise validation.InvalidCampaignError(
        f'promotion.unprotected names no family {name!r}{suggestion(name, names)}'
      )


def _check_detectable(given: Given) -> None:
  """Checks that a campaign's verdicts could detect something."""
  constitution = given.constitution
  if constitution.objective.target != 'external' or constitution.reversal.blind:
    return
  manual = given.settings.arbiter == 'manual'
  count = len(families(given.tasks))
  if not detectable.outlook(constitution, count, manual=manual).nothing:
    return
  helps = '; '.join(detectable.fixes(constitution, count, manual=manual)) or 'more of everything'
  raise validation.InvalidCampaignError(
    'the verdicts of this campaign could detect nothing with power '
    f'{constitution.reversal.power:g}. One of these would show a flaw of dev in a family: {helps}. '
    'Or bind reversal.blind = True to go without'
  )


def check(given: Given, secret: bytes) -> None:
  """Checks that place, settings, recipe, tasks, probes and machine go together; all at once.

  Args:
    given: all of it.
    secret: of the holdout; b'' where none was drawn.

  Raises:
    ValueError, SandboxError: see `prepare`.
  """
  constitution = given.constitution
  settings = given.settings
  recipe = None
  base_bytes = 0
  adapter = bool(constitution.submission.max_rank)
  if given.root is not None:
    recipe = starting_recipe.text(constitution, (given.root / build.RECIPE).read_text())
    base_bytes = allowance.float32_bytes(given.root / build.BASE / checkpoint.WEIGHTS)
    adapter = default_values(recipe)['adaptation.method'] == 'lora'
  needs = allowance.needs(base_bytes, adapter=adapter)
  run = given.run or pathlib.Path('run')
  checks = [
    functools.partial(
      validation.check,
      constitution,
      settings.agent,
      recipe,
      arbiter=settings.arbiter,
      workers_choose=settings.workers_choose,
    ),
    settings.locked,
    functools.partial(preflight.check_disk, run, base_bytes, given.machine),
    functools.partial(preflight.check_allowance, settings, base_bytes),
    functools.partial(preflight.check_memory, constitution, settings, needs, given.machine),
    functools.partial(preflight.check_engine, constitution),
    functools.partial(_check_detectable, given),
    functools.partial(_check_unprotected, given),
    # A probe that its items cannot be shown in is an error now.
    functools.partial(probes.build, constitution, given.tasks),
  ]
  if given.run is not None:
    checks.insert(0, functools.partial(_check_place, given.run, constitution))
  if given.tasks is not None:
    checks.append(functools.partial(sets.check_own, constitution, given.tasks, secret))
  if given.root is not None:
    checks += _of_base(given, given.root / build.BASE, recipe)
  validation.together(*checks)


def _of_base(given: Given, base: pathlib.Path, recipe: str) -> list[Callable[[], None]]:
  """Lists the checks that need the base."""
  constitution = given.constitution
  checks = []
  if given.tasks is not None:
    checks.append(functools.partial(_check_fit, constitution, given.tasks, base, recipe))
  if constitution.starting_recipe.bindings:
    checks.append(functools.partial(starting_recipe.check, constitution, recipe, base, given.tasks))
  return checks


def _check_place(run: pathlib.Path, constitution: Constitution) -> None:
  """Checks that a run may be made there."""
  if os.path.lexists(run):
    if missing_files(run):
      raise RunDirectoryError(
        f'{run} exists and is {run_directory.what_it_is(run)}; choose another --run'
      )
    raise RunDirectoryError(f'{run} exists; resume it with --resume={run}, or choose another --run')
  if constitution.tasks.path:
    _check_out_of_reach(run)


def disk_remark(
  run: pathlib.Path,
  constitution: Constitution,
  settings: CampaignSettings,
  substrate_root: pathlib.Path | None = None,
) -> str:
  """Says where the disk is too small for the trials of a prepared run.

  Args:
    run: the run directory.
    constitution: of the campaign.
    settings: of the campaign.
    substrate_root: as in `prepare`.

  Returns:
    A sentence, '' where there is room.
  """
  weights = find_substrate(substrate_root) / build.BASE / checkpoint.WEIGHTS
  base_bytes = allowance.float32_bytes(weights)
  trials = preflight.trials(constitution, manual=settings.arbiter == 'manual')
  needed = trials * allowance.needs(base_bytes).trial_disk
  return preflight.disk_remark(run, needed, Machine())


def _check_llm(settings: CampaignSettings) -> None:
  """Checks that the language model can be asked, where one is."""
  if settings.asks_llm:
    ChatClient(LlmSettings(**settings.llm))


def _training_tasks(tasks: OwnTasks | None) -> str:
  return '' if tasks is None else own_data.jsonl(tasks.of_split('train'))


def find_substrate(substrate_root: pathlib.Path | None) -> pathlib.Path:
  """Finds the folder of the substrate.

  Args:
    substrate_root: as in `prepare`.

  Raises:
    SubstrateMismatchError: it is no substrate.
  """
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


def missing_files(run: pathlib.Path) -> list[str]:
  """Lists what a campaign has before its first record and a directory has not."""
  return [name for name in (INPUTS, SETTINGS, CONSTITUTION) if not (run / name).exists()]


def reload(run: pathlib.Path) -> tuple[Inputs, CampaignSettings]:
  """Reads the frozen inputs of an existing run.

  Args:
    run: the run directory.

  Raises:
    RunDirectoryError: not a run directory, or its frozen tasks were changed.
  """
  missing = missing_files(run)
  if missing:
    raise RunDirectoryError(run_directory.no_campaign(run, missing))
  constitution = constitution_lib.read(run / CONSTITUTION)
  try:
    sets.own_tasks(constitution, run / sets.TASKS)
  except TaskFileError as error:
    raise RunDirectoryError(str(error)) from error
  inputs = Inputs(constitution=constitution, **json.loads((run / INPUTS).read_text()))
  settings = CampaignSettings(**json.loads((run / SETTINGS).read_text()))
  return inputs, settings
