"""Export the winner of a finished run: weights or adapter, tokenizer, and a card with its digests.

  aevo export runs/demo --out=my_model             what Hugging Face and vLLM load
  aevo export runs/demo --out=my_model --starting  a retraining of the starting recipe, labelled so
  aevo export runs/demo --out=my_adapter --adapter --base_name=my_substrate/base

The last one writes a PEFT adapter, where the winning recipe trained one. With --max_rank=32 it
refuses an adapter larger than the public challenge takes.
"""

import pathlib
import sys
import tempfile

from absl import app, flags

from aevo_jax import command, faults
from aevo_jax.checkpoint.run_directory import no_campaign

COMMAND = command.Command(
  'export',
  __doc__,
  takes=('RUN',),
  reads=('RUN',),
  makes=('out',),
  no_gin='an export takes everything from the run',
)
_OUT = flags.DEFINE_string('out', None, 'New directory.', required=True, flag_values=COMMAND.flags)
_STARTING = flags.DEFINE_bool(
  'starting',
  False,
  "A retraining of the starting recipe instead of the promoted one's.",
  flag_values=COMMAND.flags,
)
_ADAPTER = flags.DEFINE_bool(
  'adapter', False, 'The LoRA adapter instead of the merged weights.', flag_values=COMMAND.flags
)
_BASE_NAME = flags.DEFINE_string(
  'base_name',
  None,
  'With --adapter: name or path under which the base is loaded.',
  flag_values=COMMAND.flags,
)
_MAX_RANK = flags.DEFINE_integer(
  'max_rank',
  None,
  'With --adapter: refuse one of a higher rank. The public challenge takes 32 at most.',
  lower_bound=1,
  flag_values=COMMAND.flags,
)


@COMMAND
def main(arguments: list[str]) -> None:
  """Checks the flags, finds the winner and writes it."""
  if _ADAPTER.value != (_BASE_NAME.value is not None):
    raise app.UsageError('--adapter and --base_name go together: an adapter names its base')
  if _MAX_RANK.value is not None and not _ADAPTER.value:
    raise app.UsageError('--max_rank is of an adapter; say --adapter too')
  run = pathlib.Path(arguments[0])
  out = pathlib.Path(_OUT.value)
  if not (run / 'ledger.jsonl').is_file():
    sys.exit(f'export: {no_campaign(run, ["ledger.jsonl"])}')
  # Imported here, so that a wrong flag or path is answered before JAX starts.
  from aevo_jax.checkpoint.digest import ManifestError
  from aevo_jax.export.sealed import ExportOptions
  from aevo_jax.ledger.records import LedgerError
  from aevo_jax.report.gains import ScoreFileError
  from aevo_jax.report.winner import NoWinnerError

  options = ExportOptions(_BASE_NAME.value, _MAX_RANK.value)
  try:
    export(run, out, options, starting=_STARTING.value)
  except (NoWinnerError, ManifestError, LedgerError, ScoreFileError) as error:
    sys.exit(f'export: {error}')
  except OSError as error:
    sys.exit(f'export: {faults.explain(error)}')


def export(run: pathlib.Path, out: pathlib.Path, options, *, starting: bool) -> None:
  """Finds the winner of a run and writes it with its card.

  Args:
    run: directory of a finished run.
    out: new directory; it appears whole or not at all.
    options: `sealed.ExportOptions`, which form is written.
    starting: take a retraining of the starting recipe.
  """
  from aevo_jax.export import written

  out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f'.{out.name}-', dir=out.parent) as staging:
    stage = pathlib.Path(staging) / 'export'
    what, *remarks = written.fill_winner(run, stage, options, starting=starting)
    stage.rename(out)
  print(f'{what} written to {out}; its README.md says how it scored and where it comes from')
  for remark in remarks:
    print(remark)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
