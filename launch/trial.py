"""One trial of a run: what it was; with --rerun, the same trial again in the foreground.

  aevo trial runs/demo r2w5             recipe, changes, scores, cost, failures
  aevo trial runs/demo r2w5 --rerun     again, as confined as then; exit status 1 unless the
  candidate is the sealed one bit for bit

A trial's input is fixed by its run, so gin has no say here; to try another recipe use `aevo train`.
"""

import json
import pathlib
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from absl import app, flags

from aevo_jax import command, faults
from aevo_jax.campaign.decisions.state import CampaignState, TrialState, fold
from aevo_jax.campaign.executors.local import LocalExecutor
from aevo_jax.campaign.executors.protocol import Ended, Executor, Handle, Job
from aevo_jax.campaign.sandbox.confinement import available
from aevo_jax.campaign.trial.spec import EXPORT, RESULT
from aevo_jax.checkpoint.digest import ManifestError
from aevo_jax.config.nearest import suggestion
from aevo_jax.config.statements import parse_statements
from aevo_jax.ledger.append import read
from aevo_jax.ledger.records import LedgerError, Record
from aevo_jax.substrate.store import Store

if TYPE_CHECKING:
  from aevo_jax.campaign.setup import setup

COMMAND = command.Command(
  'trial',
  __doc__,
  takes=('RUN', 'TRIAL'),
  reads=('RUN',),
  makes=('out',),
  no_gin="a trial's input is fixed by its run (aevo train tries another recipe)",
)
_RERUN = flags.DEFINE_bool(
  'rerun',
  False,
  'Run the trial again and compare its candidate with the sealed one.',
  flag_values=COMMAND.flags,
)
_OUT = flags.DEFINE_string(
  'out',
  None,
  'With --rerun: a new directory for its files, which are otherwise deleted.',
  flag_values=COMMAND.flags,
)

POLL_SECONDS = 0.2


@COMMAND
def main(arguments: list[str]) -> int:
  """Describes a trial, or runs it again and compares."""
  if _OUT.value is not None and not _RERUN.value:
    raise app.UsageError('--out is for the files of --rerun')
  # Imported here, so that a wrong flag is answered before JAX starts.
  from aevo_jax.campaign.setup import setup

  run = pathlib.Path(arguments[0])
  name = arguments[1]
  try:
    inputs, _ = setup.reload(run)
    records = read(run / setup.LEDGER, strict=False)
    state = fold(records)
    if name not in state.trials:
      sys.exit(f'trial: {run} has no trial {name!r}{suggestion(name, state.trials)}')
    trial = state.trials[name]
    if not _RERUN.value:
      print(describe(trial, state, records, inputs.recipe))
      return 0
    if _OUT.value is None:
      with tempfile.TemporaryDirectory(prefix='aevo-rerun-') as directory:
        return rerun(trial, state, inputs, pathlib.Path(directory))
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True)
    return rerun(trial, state, inputs, out.absolute())
  except (setup.RunDirectoryError, LedgerError, ManifestError) as error:
    sys.exit(f'trial: {error}')
  except OSError as error:
    sys.exit(f'trial: {faults.explain(error)}')
  except KeyboardInterrupt:
    sys.exit('\ntrial: interrupted; the run itself was not touched')


def describe(
  trial: TrialState, state: CampaignState, records: list[Record], default_recipe: str
) -> str:
  """Writes what the ledger knows of a trial.

  Args:
    trial: the trial.
    state: the campaign's, for its policy, ranks and final scores.
    records: the ledger, for failed attempts.
    default_recipe: gin text of the substrate's recipe.

  Returns:
    A paragraph of lines: assignment, scores, cost, attempts and the whole recipe.
  """
  from aevo_jax.campaign.decisions import decisions

  where = f'round {trial.round}, worker {trial.worker}'
  if trial.round == decisions.FINAL:
    where = 'final retraining'
  status = trial.status
  if trial.cause:
    status = f'{status} ({trial.cause})'
  lines = [
    f'{trial.trial}: {where}, axis {trial.axis}, seed {trial.seed}',
    f'status     {status}',
  ]
  policy = state.policies.get(trial.round)
  if policy is not None:
    lines += _assignment(policy['policy']['assignments'][trial.worker])
  lines += _scores(trial, state)
  if trial.status == 'sealed':
    claim = trial.claim
    seconds = ', '.join(f'{phase} {time:.1f} s' for phase, time in claim['seconds'].items())
    lines.append(
      f'cost       {claim["tokens"]:,} tokens, {claim["steps"]} steps, {claim["flops"]:.3g} FLOPs, '
      f'{seconds}'
    )
    lines.append(f'candidate  {trial.candidate}')
  lines += _attempts(trial, records)
  lines += _recipe(trial, default_recipe)
  return '\n'.join(lines)


def _assignment(assignment: dict) -> list[str]:
  """Writes why a worker was given its changes, and which they are."""
  changes = [f'{selector} = {value!r}' for selector, value in sorted(assignment['changes'].items())]
  changed = ', '.join(changes) or 'none: the standing recipe unchanged'
  return [f'why        {assignment["reason"]}', f'changes    {changed}']


def _attempts(trial: TrialState, records: list[Record]) -> list[str]:
  """Writes how often a trial was started, and how each failed attempt ended."""
  of_trial = [record for record in records if record.payload.get('trial') == trial.trial]
  started = sum(record.kind == 'trial_started' for record in of_trial)
  lines = [f'attempts   {started}']
  for record in of_trial:
    if record.kind == 'trial_failed':
      message = record.payload.get('message', '').strip().splitlines() or ['']
      lines.append(f'           failed ({record.payload["cause"]}): {message[-1]}')
    elif record.kind == 'trial_interrupted':
      lines.append(f'           interrupted, not counted: {record.payload["message"]}')
  return lines


def _recipe(trial: TrialState, default_recipe: str) -> list[str]:
  """Writes the whole recipe, a star before each binding that an agent wrote."""
  values = {binding.selector: binding.value for binding in parse_statements(default_recipe)}
  overlay = {}
  if trial.recipe:
    overlay = {binding.selector: binding.value for binding in parse_statements(trial.overlay)}
  lines = ['recipe']
  for selector, value in sorted((values | overlay).items()):
    mark = ' '
    if selector in overlay:
      mark = '*'
    lines.append(f'  {mark} {selector} = {value!r}')
  if overlay:
    lines.append("  (* differs from the substrate's default recipe)")
  return lines


def _scores(trial: TrialState, state: CampaignState) -> list[str]:
  """Writes dev, released and final scores, and the rank in the round."""
  from aevo_jax.report.progress import score_text

  lines = []
  if trial.dev is not None:
    lines.append(f'dev        {score_text(trial.dev)} of {trial.dev["overall"]["total"]} items')
    for family, score in trial.dev['by_family'].items():
      interval = f'[{score["low"]:.3f}, {score["high"]:.3f}]'
      lines.append(f'           {family:<24} {score["accuracy"]:.3f} {interval}')
  if trial.released is not None:
    lines.append(f'external   {trial.released:.2f} (released)')
  ranks = state.ranks.get(trial.round, {})
  if trial.trial in ranks:
    place = len(ranks) - ranks[trial.trial]
    lines.append(f'rank       {place} of {len(ranks)} by external score in its round')
  if state.final is not None and trial.trial in state.final['scores']:
    lines.append(f'final      {score_text(state.final["scores"][trial.trial])}')
  return lines


def rerun(
  trial: TrialState, state: CampaignState, inputs: 'setup.Inputs', directory: pathlib.Path
) -> int:
  """Runs a trial again and compares.

  Args:
    trial: the trial.
    state: the campaign's, for its settings and whether workers were confined.
    inputs: the run's inputs.
    directory: new directory of the rerun.

  Returns:
    0 if the trial ended as it did in the run, bit for bit, and 1 if not.
  """
  from aevo_jax.campaign.decisions import decisions

  started = state.started
  if not trial.recipe:
    return _again_at_the_gate(trial, inputs)
  usable, reason = available()
  if started['locked'] and not usable:
    sys.exit(f'trial: the run confined its workers, and here that is not possible: {reason}')
  Store(inputs.store).verify(inputs.substrate_object)
  conditions = decisions.TrialConditions(
    recipe=inputs.recipe,
    store=inputs.store,
    substrate=inputs.substrate_object,
    base_digest=inputs.base_digest,
    threads=started['settings']['threads'],
    cache=inputs.cache,
    locked=started['locked'],
  )
  spec = decisions.trial_spec(trial, inputs.constitution, conditions)
  pathlib.Path(inputs.cache).mkdir(exist_ok=True)
  spec.write(directory)
  Store(inputs.store).fork(inputs.substrate_object, directory)
  executor = LocalExecutor(1, directory / 'fork_server.log')
  try:
    job = Job(directory, inputs.constitution.budget.trial_deadline_s)
    end = _watch(executor, executor.submit(trial.trial, job), directory)
  finally:
    executor.close()
  if end.timed_out:
    return _compare(trial, 'failed', 'deadline', directory)
  if end.exit_status != 0 or not (directory / RESULT).exists():
    log = (directory / 'log.txt').read_text(errors='replace')
    sys.exit(
      f'trial: the worker ended with status {end.exit_status}; end of its log:\n{log[-2000:]}'
    )
  claim = json.loads((directory / RESULT).read_text())
  status = claim['status']
  if status == 'trained':
    return _compare(trial, 'sealed', claim.get('cause', ''), directory)
  if status == 'refused':
    return _compare(trial, status, claim.get('message', ''), directory)
  return _compare(trial, status, claim.get('cause', ''), directory)


def _watch(executor: Executor, handle: Handle, directory: pathlib.Path) -> Ended:
  """Prints metrics as they come, until the worker has ended."""
  metrics = directory / 'metrics.jsonl'
  shown = 0
  while True:
    status = executor.poll(handle)
    lines = []
    if metrics.exists():
      # The last line may be half written.
      lines = metrics.read_text().split('\n')[:-1]
    for line in lines[shown:]:
      print(_step(json.loads(line)), flush=True)
    shown = len(lines)
    if isinstance(status, Ended):
      return status
    time.sleep(POLL_SECONDS)


def _step(record: dict) -> str:
  """Writes one record of metrics as a line."""
  parts = [f'step {record["step"]:>5}']
  for name, value in record.items():
    if name != 'step' and isinstance(value, float):
      parts.append(f'{name} {value:.4g}')
  return '  '.join(parts)


def _again_at_the_gate(trial: TrialState, inputs: 'setup.Inputs') -> int:
  """Sends a refused recipe through the gate again; 0 if it is refused for the same reason."""
  from aevo_jax.campaign.trial.gate import RecipeRefusedError, admit

  try:
    admit(trial.overlay, inputs.constitution.in_round(trial.round), inputs.recipe)
  except RecipeRefusedError as error:
    if str(error) == trial.cause:
      print(f'refused at the gate again: {error}')
      return 0
    print(f'refused at the gate, for another reason: {error}')
    return 1
  print(f'the gate admits it now; in the run it said: {trial.cause}')
  return 1


def _compare(trial: TrialState, outcome: str, cause: str, directory: pathlib.Path) -> int:
  """Prints whether a rerun ended as the trial did; 0 if so, or if there is nothing to compare."""
  ended = f'{outcome} {cause}'.strip()
  if trial.status == 'assigned':
    print(f'{ended}; the run has no result of this trial to compare with')
    return 0
  if outcome != trial.status or (outcome != 'sealed' and cause != trial.cause):
    before = f'{trial.status} {trial.cause}'.strip()
    print(f'NOT reproduced: it ended {ended}, in the run {before}')
    return 1
  if outcome != 'sealed':
    print(f'reproduced: {outcome} again ({cause})')
    return 0
  from safetensors.numpy import load_file

  from aevo_jax.checkpoint.digest import logical_digest

  digest = logical_digest(load_file(directory / EXPORT))
  if digest == trial.candidate:
    print(f'reproduced bit for bit: candidate {digest}')
    return 0
  print(
    f'NOT reproduced: candidate {digest}, sealed was {trial.candidate}; weights repeat '
    'exactly on one CPU type, with the same code (`aevo audit`) and packages'
  )
  return 1


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
