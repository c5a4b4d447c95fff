"""Run a campaign: rounds of workers post-train the base, a meta agent rewrites the policy, a report
says what happened.

  aevo campaign --gin_file=configs/campaigns/quickstart.gin --run=runs/demo
  aevo campaign --gin_file=configs/campaigns/quickstart.gin --dry_run
  aevo campaign --resume=runs/demo

Exit status 3: it waits for scores that somebody else gives (campaign.arbiter = 'manual'), and has
said how they are handed in.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import sys

from absl import app, flags

from aevo_jax import command, layout
from aevo_jax.campaign import estimate as estimate_lib
from aevo_jax.campaign import manual_arbiter, setup, validation
from aevo_jax.campaign.campaign import Campaign, FrozenInputsError
from aevo_jax.campaign.executors.processes import ServerError
from aevo_jax.campaign.sandbox.confinement import SandboxUnavailableError
from aevo_jax.campaign.settings import settings_from_gin
from aevo_jax.campaign.state import fold
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config.configurables import LoadError, resolve
from aevo_jax.config.parameter import SearchSpaceError
from aevo_jax.data.chat_template import ChatTemplateError
from aevo_jax.ledger.append import Ledger, read
from aevo_jax.ledger.records import LedgerError
from aevo_jax.meta_agent.llm.chat_client import ChatClient, LlmSetupError, read_key
from aevo_jax.meta_agent.llm.settings import LlmSettings
from aevo_jax.report import html
from aevo_jax.report.final_table import final_table
from aevo_jax.report.progress import Progress
from aevo_jax.report.run_view import RunView
from aevo_jax.substrate import build, manifest
from aevo_jax.substrate.build import SubstrateMismatchError
from aevo_jax.substrate.code_digest import code_tree_digest
from aevo_jax.tasks.own_data import TaskFileError
from aevo_jax.tasks.verify import UnknownVerifierError

COMMAND = command.Command('campaign', __doc__)
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

SECONDS_PER_TOKEN = (
  1.0 / 9000
)  # one core of a laptop, micro model; the report prints what this machine reached
SCORE_SECONDS = 12.0
DISK_PER_TRIAL = 14e6


@COMMAND
def main(arguments: list[str]) -> None:
  if arguments:
    raise app.UsageError(f'unexpected arguments: {" ".join(arguments)}')
  if (_RUN.value is None) == (_RESUME.value is None) and not _DRY_RUN.value:
    raise app.UsageError('give either --run=DIRECTORY for a new campaign or --resume=DIRECTORY')
  if _RESUME.value is not None and (
    _DRY_RUN.value or _SUBSTRATE.value or COMMAND.flags.gin_file or COMMAND.flags.gin_bindings
  ):
    raise app.UsageError(
      'an interrupted run goes on as it began: --resume takes neither --dry_run nor gin '
      'nor --substrate; start another one with --run'
    )
  if _WITHOUT_MISSING.value and _RESUME.value is None:
    raise app.UsageError('--without_missing goes with --resume')
  run = pathlib.Path(_RESUME.value or _RUN.value or '')
  substrate = pathlib.Path(_SUBSTRATE.value) if _SUBSTRATE.value else None
  try:
    if _RESUME.value is not None:
      if _WITHOUT_MISSING.value:
        print(f'going on without the score(s) of {", ".join(manual_arbiter.waive(run))}')
      go_on(run)
      return
    COMMAND.load_gin(layout.root_file('constitution.gin'))
    constitution, settings = setup.with_tasks(constitution_lib.from_gin()), settings_from_gin()
    if _DRY_RUN.value:
      dry_run(constitution, settings, resolve('estimate'), substrate)
      return
    if run.exists() and _IF_EXISTS.value == 'continue':
      if not finished(run):
        began = setup.reload(run)
        same = (
          dataclasses.replace(began[0].constitution, holdout=constitution.holdout).digest(),
          began[1],
          began[0].substrate_root,
        )
        if (
          constitution.digest(),
          settings,
          str(substrate.absolute()) if substrate else '',
        ) != same:
          sys.exit(
            f'campaign: {run} is unfinished and was begun with other gin, tasks or '
            f'substrate; finish it with --resume={run}, or choose another --run'
          )
        print(f'{run} is unfinished; resuming it')
        go_on(run)
        return
      run = next(
        p for p in (run.with_name(f'{run.name}-{i}') for i in range(2, 10_000)) if not p.exists()
      )
    settings.locked()  # a sandbox that is asked for and missing is an error before anything is made
    if settings.asks_llm:
      ChatClient(LlmSettings(**settings.llm))  # and so is an endpoint that cannot be asked
    setup.prepare(run, constitution, settings, substrate)
    (run / 'command.json').write_text(
      json.dumps(
        {
          'command': COMMAND.line,
          'gin_files': COMMAND.flags.gin_file,
          'size': 'own tasks' if constitution.tasks.path else constitution.objective.size,
        }
      )
      + '\n'
    )
    go_on(run)
  except (
    setup.RunDirectoryError,
    SubstrateMismatchError,
    SandboxUnavailableError,
    LedgerError,
    ServerError,
    FrozenInputsError,
    TaskFileError,
    ChatTemplateError,
    UnknownVerifierError,
    LlmSetupError,
    validation.CampaignKindError,
    manual_arbiter.ScoreRefusedError,
  ) as error:
    sys.exit(f'campaign: {error}')
  except (LoadError, SearchSpaceError) as error:
    sys.exit(f'configuration error: {error}')
  except manual_arbiter.WaitingForScoresError as waiting:
    print(waiting)
    sys.exit(manual_arbiter.WAITING_STATUS)
  except KeyboardInterrupt:
    sys.exit(f'\ninterrupted; nothing is lost. Finish with: aevo campaign --resume={run}')


def finished(run: pathlib.Path) -> bool:
  """Whether the run's last record says so."""
  ledger = run / setup.LEDGER
  return ledger.exists() and fold(read(ledger, strict=False)).finished is not None


def code_changed(run: pathlib.Path) -> bool:
  """Whether the package is not the one that a run's substrate pins."""
  return (
    manifest.read(run / setup.SUBSTRATE).code_tree.digest
    != code_tree_digest(pathlib.Path(layout.__file__).parent.parent)[0]
  )


def go_on(run: pathlib.Path) -> None:
  """Runs a prepared or interrupted campaign to its end and writes the report."""
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
    Campaign(run, ledger, settings, inputs, progress).run()
  view = RunView(run)
  path = html.write(view)
  print(final_table(view))
  print(f'report: {path}')


def dry_run(
  constitution: constitution_lib.Constitution,
  settings,
  estimate: estimate_lib.Estimate,
  substrate: pathlib.Path | None,
) -> None:
  """Prints trials, time, memory and disk of a campaign, and what is missing."""
  root = substrate or (None if estimate.model else layout.root_file('substrate'))
  starting = root / build.RECIPE if root else None
  validation.check(
    constitution,
    settings.agent,
    starting.read_text() if starting and starting.exists() else None,
    arbiter=settings.arbiter,
    workers_choose=settings.workers_choose,
  )
  budget = constitution.budget
  final = (1 if settings.arbiter == 'manual' else 2) * budget.final_seeds
  trials = budget.noise_seeds + budget.rounds * budget.workers + final
  slots = settings.parallel or max(1, len(os.sched_getaffinity(0)) // settings.threads)
  seconds = (
    trials * (budget.trial_tokens * SECONDS_PER_TOKEN + SCORE_SECONDS) / min(slots, budget.workers)
  )
  rows = {
    'trials': (
      f'{trials} ({budget.noise_seeds} for the noise floor, {budget.rounds} rounds of '
      f'{budget.workers}, {final} final)'
    ),
    'training tokens': f'{trials * budget.trial_tokens:,} ({budget.trial_tokens:,} a trial)',
    'processes at a time': f'{slots}',
    'time': 'not known: no trial of such a model has run'
    if estimate.model
    else f'about {seconds / 3600:.2f} h on cores that train 9,000 tokens a second (micro model)',
    'wall-clock cap': f'{budget.wall_clock_s / 3600:g} h; rounds end early to keep it'
    if budget.wall_clock_s
    else 'none',
    'disk': 'not known'
    if estimate.model
    else (
      f'about {trials * DISK_PER_TRIAL / 1e6:.0f} MB; '
      f'{shutil.disk_usage(".").free / 1e9:.1f} GB are free here'
    ),
    'probes': ', '.join(
      f'{name} {getattr(constitution.probes, name)}' for name in constitution.probes.used()
    )
    or 'none',
    'settings': str(dataclasses.asdict(settings)),
    'constitution': constitution.digest(),
  }
  if settings.asks_llm:
    rows['language model'] = _language_model(LlmSettings(**settings.llm), constitution.llm_rules)
  if settings.arbiter == 'manual':
    rows['submissions'] = (
      f'{min(budget.noise_seeds, constitution.release.per_round)} + {budget.rounds} x '
      f'{min(budget.workers, constitution.release.per_round)} + 1, to be scored elsewhere'
    )
  if estimate.model:
    rows |= estimate_lib.memory(estimate, constitution)
  if estimate.model and substrate is None:
    rows['missing'] = (
      (
        'a substrate of this model: aevo substrate build --from_hf=CHECKPOINT '
        '--out=my_substrate, then in its recipe.gin the starting recipe '
      )
      + (
        "(adaptation.method = 'lora', lora.rank, train.row_length), aevo substrate pin, "
        if constitution.submission.max_rank
        else ', '
      )
      + 'and --substrate=my_substrate'
    )
  for name, value in rows.items():
    print(f'{name:<20} {value}')


def _language_model(llm: LlmSettings, rules: constitution_lib.LlmRules) -> str:
  """Which endpoint will be asked, whether it can be, and the caps."""
  try:
    ready = f'the key is in {llm.key_variable}' if read_key(llm) else 'no key is sent'
  except LlmSetupError as error:
    ready = f'NOT READY: {error}'
  priced = (
    f'at most {rules.money_cap:g} of money'
    if llm.price_in or llm.price_out
    else 'unpriced (llm.price_in, llm.price_out)'
  )
  return (
    f'{llm.model or "no model"} at {llm.base_url}; {ready}; at most {rules.token_cap:,} '
    f'tokens, {priced}; nothing was sent'
  )


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
