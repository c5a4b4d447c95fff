"""Run a campaign: workers post-train the base in rounds, a meta agent rewrites the policy.

  aevo campaign --gin_file=configs/campaigns/quickstart.gin --run=runs/demo
  aevo campaign --gin_file=configs/campaigns/quickstart.gin --dry_run
  aevo campaign --resume=runs/demo

A report says what happened. The exit status is 3 where the campaign waits for scores that somebody
else gives (campaign.arbiter = 'manual'); it has then said how they are handed in. It is 75 where
the machine failed (disk, memory, device, engine): the campaign has paused, spent no attempt for it,
and says what to mend before it is resumed.
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import app, flags

from aevo_jax import command, faults, layout
from aevo_jax.campaign.decisions.state import fold
from aevo_jax.campaign.executors.protocol import ExecutorError
from aevo_jax.campaign.machine import allowance
from aevo_jax.campaign.machine import fault as fault_lib
from aevo_jax.campaign.machine.probes import Machine
from aevo_jax.campaign.sandbox.confinement import SandboxUnavailableError
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config.configurables import LoadError, resolve, resolve_all
from aevo_jax.config.parameter import SearchSpaceError
from aevo_jax.ledger.append import Ledger, read
from aevo_jax.ledger.records import LedgerError
from aevo_jax.meta_agent.llm.chat_client import LlmSetupError
from aevo_jax.substrate import manifest
from aevo_jax.substrate.code_digest import code_tree_digest

if TYPE_CHECKING:
  from aevo_jax.campaign.setup.settings import CampaignSettings, Inputs

COMMAND = command.Command('campaign', __doc__, reads=('resume', 'substrate'), fills=('run',))
_RUN = flags.DEFINE_string('run', None, 'Directory of a new run.', flag_values=COMMAND.flags)
_RESUME = flags.DEFINE_string(
  'resume', None, 'Directory of an interrupted run to finish.', flag_values=COMMAND.flags
)
_SUBSTRATE = flags.DEFINE_string(
  'substrate',
  None,
  (
    'Folder of the substrate that the campaign starts from (`aevo substrate build`); the '
    "project's if not given."
  ),
  flag_values=COMMAND.flags,
)
_IF_EXISTS = flags.DEFINE_enum(
  'if_exists',
  'error',
  ['error', 'continue'],
  'What to do when --run exists: refuse, or resume it if it is unfinished and '
  'otherwise start RUN-2, RUN-3 ...',
  flag_values=COMMAND.flags,
)
_WITHOUT_MISSING = flags.DEFINE_bool(
  'without_missing',
  False,
  'With --resume: go on without the scores that were not handed in.',
  flag_values=COMMAND.flags,
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run',
  False,
  'Say how many trials, hours and how much disk the campaign takes, and stop.',
  flag_values=COMMAND.flags,
)


def user_errors() -> tuple[type[Exception], ...]:
  """Returns the errors that a person can mend: each is one sentence, without a traceback."""
  from aevo_jax.campaign import manual_arbiter
  from aevo_jax.campaign.campaign import FrozenInputsError
  from aevo_jax.campaign.setup import setup, validation
  from aevo_jax.data.chat_template import ChatTemplateError
  from aevo_jax.evaluation.servers.client import ServerError
  from aevo_jax.substrate.build import SubstrateMismatchError
  from aevo_jax.tasks.own_data import TaskFileError
  from aevo_jax.tasks.verify import UnknownVerifierError

  return (
    setup.RunDirectoryError,
    SubstrateMismatchError,
    SandboxUnavailableError,
    LedgerError,
    ExecutorError,
    ServerError,
    FrozenInputsError,
    TaskFileError,
    ChatTemplateError,
    UnknownVerifierError,
    LlmSetupError,
    allowance.LowLimitError,
    validation.InvalidCampaignError,
    manual_arbiter.ScoreRefusedError,
  )


@COMMAND
def main(arguments: list[str]) -> None:
  """Starts, resumes or estimates a campaign."""
  del arguments
  _check_flags()
  # Imported here and below, so that a wrong flag is answered before JAX starts.
  from aevo_jax.campaign import manual_arbiter

  run = pathlib.Path(_RESUME.value or _RUN.value or '')
  try:
    if _RESUME.value is not None:
      resume(run)
    else:
      start(run)
  except fault_lib.MachineFaultError as fault:
    print(f'campaign: paused: {fault}', file=sys.stderr)
    sys.exit(fault_lib.PAUSED_STATUS)
  except user_errors() as error:
    sys.exit(f'campaign: {error}')
  except OSError as error:
    sys.exit(f'campaign: {faults.explain(error)}')
  except (LoadError, SearchSpaceError) as error:
    sys.exit(f'configuration error: {error}')
  except manual_arbiter.WaitingForScoresError as waiting:
    print(waiting)
    sys.exit(manual_arbiter.WAITING_STATUS)
  except KeyboardInterrupt:
    sys.exit(f'\ninterrupted; nothing is lost. Finish with: aevo campaign --resume={run}')


def _check_flags() -> None:
  """Raises UsageError where flags do not go together."""
  if (_RUN.value is None) == (_RESUME.value is None) and not _DRY_RUN.value:
    raise app.UsageError('give either --run=DIRECTORY for a new campaign or --resume=DIRECTORY')
  has_gin = COMMAND.flags.gin_file or COMMAND.flags.gin_bindings
  if _RESUME.value is not None and (_DRY_RUN.value or _SUBSTRATE.value or has_gin):
    raise app.UsageError(
      'an interrupted run goes on as it began: --resume takes neither --dry_run nor gin '
      'nor --substrate; start another one with --run'
    )
  if _WITHOUT_MISSING.value and _RESUME.value is None:
    raise app.UsageError('--without_missing goes with --resume')


def resume(run: pathlib.Path) -> None:
  """Finishes an interrupted run, without the missing scores if the flag says so."""
  from aevo_jax.campaign import manual_arbiter

  if _WITHOUT_MISSING.value:
    print(f'going on without the score(s) of {", ".join(manual_arbiter.waive(run))}')
  go_on(run)


def start(run: pathlib.Path) -> None:
  """Starts a new run, or estimates it, or resumes the run of that name.

  Args:
    run: directory of the run; with --if_exists=continue it may exist.
  """
  from aevo_jax.campaign.setup import dry_run, setup, starting_recipe
  from aevo_jax.campaign.setup.settings import settings_from_gin
  from aevo_jax.substrate import build

  substrate = None
  if _SUBSTRATE.value:
    substrate = pathlib.Path(_SUBSTRATE.value)
  recipe = (substrate or layout.root_file('substrate')) / build.RECIPE
  first = [layout.root_file('constitution.gin')]
  if recipe.is_file():
    first.append(recipe)
  allowance.refuse_low_limit(recipe.with_name('base'), Machine().memory_limit())
  bound = COMMAND.load_gin(*first)
  # All that is wrong with any section is said at once.
  resolve_all([*constitution_lib.owned_names(), 'campaign', *starting_recipe.named(bound)])
  written = constitution_lib.from_gin()
  dead = setup.dead_bindings(written)
  for selector, reason in dead.items():
    print(f'search_space.axes: {selector} is left out: {reason}')
  constitution = dataclasses.replace(
    setup.with_tasks(written), starting_recipe=starting_recipe.from_gin(bound)
  )
  settings = settings_from_gin()
  goes_on = _IF_EXISTS.value == 'continue' and run.exists() and not setup.missing_files(run)
  if _DRY_RUN.value:
    estimate = resolve('estimate')
    place = None
    if _RUN.value and not goes_on:
      place = run
    rows = dry_run.rows(constitution, settings, estimate, substrate, place)
    for name, value in rows.items():
      print(f'{name:<20} {value}')
    return
  if goes_on:
    if not finished(run):
      _check_same_start(run, constitution, settings, substrate)
      print(f'{run} is unfinished; resuming it')
      go_on(run)
      return
    run = _next_name(run)
  setup.prepare(run, constitution, settings, substrate)
  size = constitution.objective.size
  if constitution.tasks.path:
    size = 'own tasks'
  facts = {'command': COMMAND.line, 'gin_files': COMMAND.flags.gin_file, 'size': size}
  if dead:
    facts['left_out'] = dead
  with _resumable(run):
    (run / 'command.json').write_text(json.dumps(facts) + '\n')
  remark = setup.disk_remark(run, constitution, settings, substrate)
  if remark:
    print(f'campaign: {remark}')
  go_on(run)


def _check_same_start(
  run: pathlib.Path,
  constitution: constitution_lib.Constitution,
  settings: 'CampaignSettings',
  substrate: pathlib.Path | None,
) -> None:
  """Ends the command where an unfinished run was begun with something else."""
  from aevo_jax.campaign.setup import setup

  inputs, settings_then = setup.reload(run)
  constitution_then = dataclasses.replace(inputs.constitution, holdout=constitution.holdout)
  substrate_root = ''
  if substrate is not None:
    substrate_root = str(substrate.absolute())
  if (
    constitution_then.digest() != constitution.digest()
    or settings_then != settings
    or inputs.substrate_root != substrate_root
  ):
    sys.exit(
      f'campaign: {run} is unfinished and was begun with other gin, tasks or '
      f'substrate; finish it with --resume={run}, or choose another --run'
    )


def _next_name(run: pathlib.Path) -> pathlib.Path:
  """Returns the first of RUN-2, RUN-3 ... that does not exist."""
  number = 2
  while run.with_name(f'{run.name}-{number}').exists():
    number += 1
  return run.with_name(f'{run.name}-{number}')


def finished(run: pathlib.Path) -> bool:
  """Whether the run's ledger says that it is finished."""
  from aevo_jax.campaign.setup import setup

  ledger = run / setup.LEDGER
  return ledger.exists() and fold(read(ledger, strict=False)).finished is not None


def code_changed(run: pathlib.Path) -> bool:
  """Whether the package is not the one that the run's substrate pins."""
  from aevo_jax.campaign.setup import setup

  digest, _ = code_tree_digest(pathlib.Path(layout.__file__).parent.parent)
  return manifest.read(run / setup.SUBSTRATE).code_tree.digest != digest


def go_on(run: pathlib.Path) -> None:
  """Runs a prepared or interrupted campaign to its end and writes the report.

  Args:
    run: its directory.

  Raises:
    MachineFaultError: the machine failed; the same run can go on once that is mended.
  """
  with _resumable(run):
    _refuse_low_limit(run)
    _go_on(run)


def _refuse_low_limit(run: pathlib.Path) -> None:
  """Refuses a limit on memory under which JAX would abort the process.

  Args:
    run: its directory, which has a copy of the base's weights.

  Raises:
    MachineFaultError: the limit is too low.
  """
  try:
    again = fault_lib.resume_command(run)
    allowance.refuse_low_limit(run, Machine().memory_limit(), again)
  except allowance.LowLimitError as error:
    raise fault_lib.MachineFaultError('memory_limit', str(error)) from error


@contextlib.contextmanager
def _resumable(run: pathlib.Path) -> Iterator[None]:
  """Turns an error of the machine into the fault for which the run has paused."""
  try:
    yield
  except fault_lib.MachineFaultError:
    raise
  except Exception as error:
    fault = fault_lib.of_error(error, run)
    if fault is None:
      raise
    raise fault from error


def _go_on(run: pathlib.Path) -> None:
  from aevo_jax.campaign import manual_arbiter
  from aevo_jax.campaign.campaign import Campaign
  from aevo_jax.campaign.setup import setup
  from aevo_jax.report.final_table import final_table
  from aevo_jax.report.page import html
  from aevo_jax.report.progress import Progress
  from aevo_jax.report.run_view import RunView

  inputs, settings = setup.reload(run)
  run = run.absolute()
  with (
    Ledger.open(run / setup.LEDGER) as ledger,
    Progress(inputs.constitution, fold(ledger.records)) as progress,
  ):
    if code_changed(run):
      sys.exit(
        f'campaign: {run} was begun with other code of aevo_jax, whose trials could not '
        'be compared with the rest; finish it with that code, '
        'or choose another --run'
      )
    if progress.state.waiting and (missing := manual_arbiter.missing(progress.state)):
      raise manual_arbiter.WaitingForScoresError(run, missing)
    if (run / setup.CONSTITUTION).read_text() != inputs.constitution.text():
      sys.exit(f'campaign: {run / setup.CONSTITUTION} is not canonical; it was edited')
    print(_header(inputs, settings), flush=True)
    Campaign(run, ledger, settings, inputs, progress).run()
  view = RunView(run)
  path = html.write(view)
  print(final_table(view))
  print(f'report: {path}')


def _header(inputs: 'Inputs', settings: 'CampaignSettings') -> str:
  """Words what the campaign is about to do, or to finish."""
  from aevo_jax.config.statements import parse_statements
  from aevo_jax.models.hf import checkpoint
  from aevo_jax.substrate.store import Store
  from aevo_jax.training.recipe import header
  from aevo_jax.training.recipe.recipe import Recipe

  starting = Recipe.from_bindings(parse_statements(inputs.recipe))
  base = Store(inputs.store).path(inputs.substrate_object)
  budget = inputs.constitution.budget
  rounds = f'{budget.rounds} rounds of {budget.workers} trials'
  if budget.wall_clock_s:
    rounds += f', {budget.wall_clock_s / 3600:g} h at most'
  rows = {
    'recipe': header.changes(starting.sections().items()),
    'model': header.model(checkpoint.read_config(base)),
    'method': f'{header.method(starting)}; agent {settings.agent}, arbiter {settings.arbiter}',
    'devices': f'{settings.slots} processes of {settings.threads} threads',
    'tokens': f'{budget.trial_tokens:,} a trial',
    'steps': f'{budget.trial_steps:,} a trial at most',
    'budget': rounds,
  }
  return header.text(rows)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
