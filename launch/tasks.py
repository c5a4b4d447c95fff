"""Turn a data set into tasks of your own: chats, alpaca, verl, GSM8K and the like.

  aevo tasks convert gsm8k_train.jsonl --out=my_tasks.jsonl
  aevo tasks convert chats/ --system=prepend --skip --out=my_tasks.jsonl

Reads JSON lines or an array, or a folder of them, and writes a line for each question with an
answer that can be checked (docs/own_model_and_data.md). Where some record cannot be turned, nothing
is written, unless --skip leaves it out. `aevo train --tasks=my_tasks.jsonl` takes what is written.
"""

import pathlib
import sys

from absl import app, flags

from aevo_jax import command, faults

COMMAND = command.Command(
  'tasks',
  __doc__,
  takes=('convert', 'FILE...'),
  reads=('FILE...',),
  no_gin='tasks are made from their files alone',
)
_OUT = flags.DEFINE_string('out', None, 'File to write.', required=True, flag_values=COMMAND.flags)
_OVERWRITE = flags.DEFINE_boolean(
  'overwrite', False, 'Replace --out if it exists.', flag_values=COMMAND.flags
)
_SKIP = flags.DEFINE_boolean(
  'skip', False, 'Leave out records that cannot be turned.', flag_values=COMMAND.flags
)
_FAMILY = flags.DEFINE_string(
  'family',
  '',
  "Family of every task; else that of the record (`family`, verl's `data_source`), else its file.",
  flag_values=COMMAND.flags,
)
_VERIFIER = flags.DEFINE_enum(
  'verifier',
  None,
  ['strict', 'number', 'choice', 'challenge'],
  'Comparison that has to accept every answer; else number or choice where it does, or strict.',
  flag_values=COMMAND.flags,
)
_SYSTEM = flags.DEFINE_enum(
  'system',
  'refuse',
  ['refuse', 'prepend', 'drop'],
  'What becomes of system prompts, which a task has not.',
  flag_values=COMMAND.flags,
)
_WHOLE_REPLIES = flags.DEFINE_boolean(
  'whole_replies',
  False,
  'A reply without \\boxed{} or #### is an answer as a whole.',
  flag_values=COMMAND.flags,
)
_PLACES = 5


@COMMAND
def main(arguments: list[str]) -> None:
  """Converts the files and says what became of them."""
  action, *given = arguments
  if action != 'convert':
    raise app.UsageError(f'no action {action!r}; write: aevo tasks convert FILE... --out=OUT')
  out = pathlib.Path(_OUT.value)
  if out.is_dir():
    sys.exit(f'tasks: {out} is a directory; name the file to write with --out')
  if out.exists() and not _OVERWRITE.value:
    sys.exit(f'tasks: {out} exists; name another --out, or say --overwrite')
  from aevo_jax.tasks.convert import conversion, records
  from aevo_jax.tasks.own_data import TaskFileError

  options = conversion.Options(
    family=_FAMILY.value,
    verifier=_VERIFIER.value or '',
    system=_SYSTEM.value,
    whole_replies=_WHOLE_REPLIES.value,
  )
  try:
    files = []
    for argument in given:
      files += records.files(pathlib.Path(argument))
    converted = conversion.convert(files, options)
    print(f'read {", ".join(map(str, files))}')
    _print_rest(converted)
    if not converted.items:
      empty = '' if converted.refused else '; there is no record'
      sys.exit(f'tasks: no record could be turned, so nothing was written{empty}')
    if converted.refused and not _SKIP.value:
      sys.exit(
        f'tasks: nothing was written; mend those records, or say --skip to write the other '
        f'{len(converted.items)}'
      )
    conversion.write(converted, out)
  except TaskFileError as error:
    sys.exit(f'tasks: nothing was written: {error}')
  except records.RecordsError as error:
    sys.exit(f'tasks: {error}')
  except BrokenPipeError:
    raise
  except OSError as error:
    sys.exit(f'tasks: {faults.explain(error)}')
  _print_written(converted, out)


def _print_rest(converted) -> None:
  """Prints which shapes were read, and what was not turned and where."""
  for shape, count in sorted(converted.shapes.items()):
    print(f'{count} of the shape {shape!r}')
  for why, places in converted.refused.items():
    shown = ', '.join(places[:_PLACES])
    more = f' and {len(places) - _PLACES} more' if len(places) > _PLACES else ''
    print(f'{len(places)} not turned: {why}\n  {shown}{more}')
  if converted.repeated:
    print(f'{converted.repeated} repeat another record and are left out')
  if converted.rewritten:
    print(f'{converted.rewritten} answers are written with the digits and the minus of ASCII')


def _print_written(converted, out: pathlib.Path) -> None:
  """Prints what was written, and the verifier that it is for."""
  solutions = sum(bool(item.reasoning) for item in converted.items)
  families = ', '.join(sorted({item.family for item in converted.items}))
  print(
    f'wrote {len(converted.items)} tasks to {out}, {solutions} with a solution; families: '
    f'{families}'
  )
  print(f'train on them with: aevo train --tasks={out} ...')
  if converted.verifier != 'strict':
    print(
      f'every answer suits the verifier {converted.verifier!r}: bind objective.verifier '
      '(campaigns) and reward.verifier (reinforcement learning) to it'
    )


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
