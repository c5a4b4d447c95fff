"""A trainer's directory: made new, or gone on with if it holds the same run, by one process.

    OUT/RECORD   what makes two runs the same, as JSON; its name says which command trains there
    OUT/DEVICES  a line for each start on a mesh: devices, mesh, rules, and what chose them
    OUT/.lock    held by the process that trains there

It imports nothing of ours, so a command can refuse a directory before JAX starts.
"""

import contextlib
import datetime
import fcntl
import json
import pathlib
from collections.abc import Iterable
from typing import Any

LOCK = '.lock'
TRAIN = 'train.json'
PRETRAIN = 'pretrain_run.json'
ORIGIN = 'origin.json'  # where the base lies; no part of what makes two runs the same
DEVICES = 'devices.jsonl'

CAMPAIGNS = 'a run of `aevo campaign`'
# What else may lie in a directory, by the file that shows it; the first that is there names it.
_KINDS = {
  TRAIN: 'a run of `aevo train`',
  PRETRAIN: 'a run of `aevo pretrain`',
  'ledger.jsonl': CAMPAIGNS,
  'inputs.json': CAMPAIGNS,
  'manifest.json': 'a substrate',
  'spec.json': 'a trial of a campaign',
  'config.json': 'a base or a checkpoint',
}


class RunDirectoryError(ValueError):
  """The directory is not this run's, or not free; the message says so and what to do."""


def refuse_foreign(out: pathlib.Path, record: str) -> None:
  """Checks that a directory is empty, missing, or a run of this command.

  Args:
    out: the run's directory.
    record: name of the file that shows a run of this command, `TRAIN` or `PRETRAIN`.

  Raises:
    RunDirectoryError: other files lie there.
  """
  if not out.exists() or (out / record).exists():
    return
  if all(entry.name == LOCK for entry in out.iterdir()):
    return
  found = _found(out)
  holds = f'it holds {found}; ' if found else ''
  raise RunDirectoryError(
    f'{out} is not empty and not a run of `aevo {command_of(record)}` ({holds}it has no {record}); '
    'choose another --out'
  )


def _found(path: pathlib.Path) -> str:
  """Words what lies in a directory; '' for anything else than those of `_KINDS`."""
  return next((kind for name, kind in _KINDS.items() if (path / name).exists()), '')


def what_it_is(path: pathlib.Path) -> str:
  """Words what a path is that is no campaign's: 'a run of `aevo train`'."""
  if not path.is_dir():
    return 'a file'
  if not any(path.iterdir()):
    return 'an empty directory'
  return _found(path) or 'a directory of other files'


def no_campaign(path: pathlib.Path, missing: Iterable[str]) -> str:
  """Words that a path is no campaign's, what it is, and what a command takes.

  Args:
    path: that exists.
    missing: files that a campaign has and it has not.
  """
  lacks = ', '.join(missing)
  kind = what_it_is(path)
  if kind != CAMPAIGNS:
    return (
      f'{path} is not a run: it has no {lacks}; it is {kind}, give the directory of {CAMPAIGNS}'
    )
  if (path / 'inputs.json').exists():
    return f'{path} has not begun: it has no {lacks}; go on with aevo campaign --resume={path}'
  return f'{path} is {CAMPAIGNS} that has lost {lacks}; restore what was lost, or give another'


def no_base(directory: pathlib.Path) -> str:
  """Says what a directory without config.json is, and what to give in its place.

  Args:
    directory: which somebody gave for a base or a checkpoint.

  Returns:
    A sentence.
  """
  config = 'config.json'
  for folder in ('export', 'base'):
    if not (directory / folder / config).is_file():
      continue
    for name, kind in _KINDS.items():
      if (directory / name).exists():
        return f'{directory} is {kind}, and its weights lie below it; give {directory / folder}'
    return f'{directory} has no {config}, and {directory / folder} has; give that'
  for name, kind in _KINDS.items():
    if (directory / name).exists():
      return (
        f'{directory} is {kind}; write its weights as a checkpoint and give that: '
        f'aevo export_hf {directory} --out=DIRECTORY'
      )
  if (directory / 'adapter_config.json').is_file():
    return (
      f'{directory} is a LoRA adapter; merge it into its base and give that: '
      f'aevo export_hf {directory} --out=DIRECTORY'
    )
  return f'{directory} has no {config}; copy it from the checkpoint'


def command_of(record: str) -> str:
  """Returns the command whose runs have this record."""
  return 'train' if record == TRAIN else 'pretrain'


def begin(
  out: pathlib.Path, record: str, started_with: dict[str, Any], held: contextlib.ExitStack
) -> None:
  """Makes the run's directory, or checks that what lies there is this run, and takes it.

  Args:
    out: the run's directory.
    record: name of the file that holds `started_with`.
    started_with: what makes two runs the same, as JSON values.
    held: keeps the directory for this process until it closes.

  Raises:
    RunDirectoryError: another run lies there, and the message says in what it differs; or another
      process trains there; or see `refuse_foreign`.
  """
  refuse_foreign(out, record)
  out.mkdir(parents=True, exist_ok=True)
  lock = held.enter_context((out / LOCK).open('w'))
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise RunDirectoryError(
      f'another process trains in {out}; wait for its end, or choose another --out'
    ) from None
  path = out / record
  if not path.exists():
    path.write_text(json.dumps(started_with, indent=1, sort_keys=True) + '\n')
    return
  before = _flat(json.loads(path.read_text()))
  now = _flat(json.loads(json.dumps(started_with)))
  differences = []
  for name in sorted(before.keys() | now.keys()):
    if before.get(name) != now.get(name):
      differences.append(f'{name} was {before.get(name)!r} and is {now.get(name)!r} now')
  if differences:
    raise RunDirectoryError(
      f'{out} holds another run: {"; ".join(differences)}. Choose another --out, or '
      'give the same settings to continue it'
    )


def record_devices(out: pathlib.Path, placement: dict[str, Any] | None) -> None:
  """Appends what computes from this start on, which may be another mesh than before.

  Args:
    out: the run's directory.
    placement: `Placement.record`; None without a mesh, which is written where a mesh came before.
  """
  path = out / DEVICES
  if placement is None:
    if not path.exists():
      return
    placement = {'mesh': {}}
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  with path.open('a') as file:
    file.write(json.dumps({'started': now} | placement) + '\n')


def _flat(values: dict, prefix: str = '') -> dict:
  """Turns nested dictionaries into one, its keys joined by dots."""
  flat = {}
  for name, value in values.items():
    if isinstance(value, dict):
      flat |= _flat(value, f'{prefix}{name}.')
    else:
      flat[f'{prefix}{name}'] = value
  return flat
