"""Everything a campaign needs before its first record: substrate stored, holdout committed,
constitution frozen in the run directory.
"""

import dataclasses
import json
import pathlib
import secrets

from aevo_jax import layout
from aevo_jax.campaign import validation
from aevo_jax.campaign.sandbox import confinement
from aevo_jax.campaign.settings import CampaignSettings, Inputs
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config.constitution import Constitution
from aevo_jax.config.statements import parse_statements
from aevo_jax.data import chat_template, corpus
from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.evaluation import probes, sets
from aevo_jax.evaluation.servers import arbiter
from aevo_jax.evaluation.sets import commitment
from aevo_jax.models.hf import checkpoint
from aevo_jax.substrate import build, manifest
from aevo_jax.substrate.store import Store
from aevo_jax.tasks import own_data
from aevo_jax.tasks.own_data import OwnTasks, TaskFileError
from aevo_jax.training.recipe.recipe import Train

INPUTS, SETTINGS, CONSTITUTION, LEDGER = (
  'inputs.json',
  'settings.json',
  'constitution.gin',
  'ledger.jsonl',
)
SUBSTRATE = 'substrate.json'  # the digests behind the substrate's identity, file by file


class RunDirectoryError(ValueError):
  """The run directory cannot be used as asked; the message names the fix."""


def with_tasks(constitution: Constitution) -> Constitution:
  """The constitution with the digest of the tasks that its tasks.path names; of puzzles, as it is.

  Raises:
    UnknownVerifierError, TaskFileError: see `sets.own_tasks`.
  """
  own = sets.own_tasks(constitution, tasks_path(constitution.tasks.path))
  return constitution if own is None else constitution.with_tasks(own.digest)


def tasks_path(name: str) -> pathlib.Path:
  """Where tasks.path lies: as it is spelled from the working directory, or beside the project's
  configs like a gin file.
  """
  return next(
    (
      p
      for p in (pathlib.Path(folder) / name for folder in ('', *layout.search_paths()))
      if p.exists()
    ),
    pathlib.Path(name),
  )


def prepare(
  run: pathlib.Path,
  constitution: Constitution,
  settings: CampaignSettings,
  substrate_root: pathlib.Path | None = None,
) -> Inputs:
  """Makes the run directory and freezes its inputs.

  Args:
    substrate_root: the substrate's folder; the project's if not given.

  Raises:
    CampaignKindError: see `kinds.check`.
    RunDirectoryError: it exists, or lies where workers read and would hold private tasks.
      SubstrateMismatchError: the substrate is not the pinned one. TaskFileError, ChatTemplateError:
      tasks of one's own or the base's
    chat format cannot be used. ProbeError: see `probes.build`.
  """
  if run.exists():
    raise RunDirectoryError(f'{run} exists; resume it with --resume={run}, or choose another --run')
  constitution = with_tasks(constitution)
  own = sets.own_tasks(constitution, tasks_path(constitution.tasks.path))
  if own is not None:
    _check_out_of_reach(run)
  home, manual = arbiter.default_home(), settings.arbiter == 'manual'
  # A manual arbiter has a target of his own: no private set is drawn here, and nothing is committed
  # to.
  holdout = '' if manual else f'{constitution.digest()[:16]}-{settings.seed}'
  secret = b'' if manual else arbiter.holdout_secret(home, holdout)
  frozen = constitution if manual else constitution.committed(commitment(secret))
  run = run.absolute()
  root = (substrate_root or layout.root_file('substrate')).absolute()
  if not (root / build.MANIFEST).is_file():
    raise build.SubstrateMismatchError(
      f'{root} is no substrate: it has no {build.MANIFEST}; make one with: aevo substrate '
      f'build --from_hf=DIRECTORY --out={root}'
    )
  validation.check(
    constitution,
    settings.agent,
    (root / build.RECIPE).read_text(),
    arbiter=settings.arbiter,
    workers_choose=settings.workers_choose,
  )
  if own is not None:
    sets.check_own(constitution, own, secret)
    _check_fit(constitution, own, root)
  probes.build(constitution, own)  # one that its items cannot be shown in is an error now
  store = Store(run.parent / '.store')
  measured = build.measure(root, pathlib.Path(layout.__file__).parent.parent)
  stored = build.build(
    root, measured, store, '' if own is None else own_data.jsonl(own.of_split('train'))
  )
  inputs = Inputs(
    constitution=frozen,
    holdout=holdout,
    arbiter_campaign=f'{run.name}-{secrets.token_hex(4)}',
    store=str(store.root),
    substrate_object=stored.object,
    substrate_identity=stored.identity,
    base_digest=measured.base_checkpoint.logical_digest,
    recipe=stored.recipe,
    cache=str(run.parent / '.jit_cache'),
    arbiter_home=str(home),
    substrate_root='' if substrate_root is None else str(root),
  )
  run.mkdir(parents=True)
  pathlib.Path(inputs.cache).mkdir(exist_ok=True)
  (run / CONSTITUTION).write_text(frozen.text())
  if own is not None:
    (run / sets.TASKS).write_text(own.text())
  manifest.write(run / SUBSTRATE, measured)
  (run / SETTINGS).write_text(json.dumps(dataclasses.asdict(settings), indent=1) + '\n')
  fields = dataclasses.asdict(inputs)
  del fields['constitution']
  (run / INPUTS).write_text(json.dumps(fields, indent=1) + '\n')
  # As a resumed controller or an audit will read them: the order of the axes in the operator's gin
  # must not steer an agent.
  return reload(run)[0]


def _check_out_of_reach(run: pathlib.Path) -> None:
  """Whether confined workers cannot read the run directory, which will hold private tasks; raises
  RunDirectoryError.
  """
  package = pathlib.Path(layout.__file__).parent
  for readable in (*confinement.system_read_paths(), package):
    if run.resolve().is_relative_to(readable.resolve()):
      raise RunDirectoryError(
        f'{run} lies beneath {readable}, which locked workers may read, and it would hold '
        'the private tasks; choose a --run outside of it'
      )


def _check_fit(constitution: Constitution, own: OwnTasks, root: pathlib.Path) -> None:
  """Whether the tasks fit the base at `root` and the rows of its starting recipe; raises
  TaskFileError.
  """
  base = root / build.BASE
  row_length = {
    b.selector: b.value for b in parse_statements((root / build.RECIPE).read_text())
  }.get('train.row_length', Train.row_length)
  corpus.check_fit(
    own,
    chat_template.read(str(base)),
    tokenizers.load(str(base)),
    row_length=row_length,
    max_new_tokens=constitution.objective.max_new_tokens,
    max_positions=checkpoint.read_config(base).max_position_embeddings,
    verifier=constitution.objective.verifier,
  )


def reload(run: pathlib.Path) -> tuple[Inputs, CampaignSettings]:
  """The frozen inputs of an existing run.

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
  return Inputs(
    constitution=constitution, **json.loads((run / INPUTS).read_text())
  ), CampaignSettings(**json.loads((run / SETTINGS).read_text()))
