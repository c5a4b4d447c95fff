"""Export the winner of a finished run: weights or adapter, tokenizer, and a card with its digests.

  aevo export runs/demo --out=my_model             what Hugging Face and vLLM load
  aevo export runs/demo --out=my_model --starting  a retraining of the starting recipe, labelled so
  aevo export runs/demo --out=my_adapter --adapter --base_name=my_substrate/base

The last one writes a PEFT adapter, where the winning recipe trained one. With --max_rank=32 it
refuses an adapter larger than the public challenge takes.
"""

import dataclasses
import pathlib
import shutil
import sys
import tempfile

from absl import app, flags, logging

from aevo_jax import command, faults

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


@dataclasses.dataclass(frozen=True)
class ExportOptions:
  """What is written.

  Attributes:
    base_name: name of the base in the adapter's config; None writes whole weights.
    max_rank: highest LoRA rank that is written; None for no limit.
  """

  base_name: str | None = None
  max_rank: int | None = None

  @property
  def adapter(self) -> bool:
    """Whether an adapter is written instead of whole weights."""
    return self.base_name is not None


@COMMAND
def main(arguments: list[str]) -> None:
  """Checks the flags, finds the winner and writes it."""
  if _ADAPTER.value != (_BASE_NAME.value is not None):
    raise app.UsageError('--adapter and --base_name go together: an adapter names its base')
  if _MAX_RANK.value is not None and not _ADAPTER.value:
    raise app.UsageError('--max_rank is of an adapter; say --adapter too')
  logging.set_verbosity(logging.WARNING)
  run = pathlib.Path(arguments[0])
  out = pathlib.Path(_OUT.value)
  if not (run / 'ledger.jsonl').is_file():
    sys.exit(f'export: {run} is not a run: it has no ledger.jsonl')
  # Imported here, so that a wrong flag or path is answered before JAX starts.
  from aevo_jax.checkpoint.digest import ManifestError
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


def export(run: pathlib.Path, out: pathlib.Path, options: ExportOptions, *, starting: bool) -> None:
  """Finds the winner of a run and writes it with its card.

  Args:
    run: directory of a finished run.
    out: new directory; it appears whole or not at all.
    options: which form is written.
    starting: take a retraining of the starting recipe.
  """
  from aevo_jax.report import model_card
  from aevo_jax.report import winner as winner_lib
  from aevo_jax.report.audit.audited_run import AuditedRun
  from aevo_jax.report.run_view import RunView

  audited = AuditedRun(run)
  winner = winner_lib.find(audited, starting=starting)
  card = model_card.text(audited, RunView(run), winner, adapter=options.adapter)
  write(winner, card, out, options)
  print(
    f'{winner.trial.trial} of {run} written to {out}; its README.md says how it scored '
    'and where it comes from'
  )


def write(winner, card: str, out: pathlib.Path, options: ExportOptions) -> None:
  """Writes weights or adapter, what the base carries beside them, and the card.

  Args:
    winner: `report.winner.Winner`.
    card: text of README.md.
    out: new directory; it appears whole or not at all.
    options: which form is written.

  Raises:
    NoWinnerError: the trial has no adapter, or one of a higher rank.
  """
  from aevo_jax.campaign.trial.spec import EXPORT
  from aevo_jax.models.hf import checkpoint
  from aevo_jax.substrate import build

  out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f'.{out.name}-', dir=out.parent) as staging:
    stage = pathlib.Path(staging) / 'export'
    if options.adapter:
      write_adapter(winner, stage, options)
    else:
      stage.mkdir()
      shutil.copyfile(winner.directory / EXPORT, stage / checkpoint.WEIGHTS)
      shutil.copyfile(winner.base / checkpoint.CONFIG, stage / checkpoint.CONFIG)
    for name in build.CARRIED:
      if name != checkpoint.CONFIG:
        shutil.copyfile(winner.base / name, stage / name)
    (stage / 'README.md').write_text(card)
    stage.rename(out)


def write_adapter(winner, stage: pathlib.Path, options: ExportOptions) -> None:
  """Makes `stage` with the adapter of the winning trial's sealed checkpoint.

  Args:
    winner: `report.winner.Winner`.
    stage: new directory.
    options: name of the base, and the highest rank.

  Raises:
    NoWinnerError: the trial trained no adapter, or one of a higher rank.
  """
  from aevo_jax.campaign.trial import submission
  from aevo_jax.report.winner import NoWinnerError

  try:
    submission.write_adapter(
      stage,
      winner.directory,
      winner.base,
      winner.recipe,
      base_name=options.base_name,
      max_rank=options.max_rank,
    )
  except submission.NoSubmissionError as error:
    raise NoWinnerError(f'{error}; without --adapter the weights are exported') from error


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
