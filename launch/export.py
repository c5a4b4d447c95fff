"""Export the winner of a finished run: weights or LoRA adapter, tokenizer, and a model card with
provenance digests.

aevo export runs/demo --out=my_model             what Hugging Face and vLLM load
aevo export runs/demo --out=my_model --starting  a retraining of the starting recipe, labelled as
such aevo export runs/demo --out=my_adapter --adapter --base_name=my_substrate/base    a PEFT
adapter, where the winning recipe trained one;
                                                                                  with
                                                                                  --max_rank=32, no
                                                                                  larger than the
                                                                                  public challenge
                                                                                  takes
"""

import pathlib
import shutil
import sys
import tempfile

from absl import app, flags, logging

from aevo_jax import faults

_OUT = flags.DEFINE_string('out', None, 'New directory.', required=True)
_STARTING = flags.DEFINE_bool(
  'starting', False, "A retraining of the starting recipe instead of the promoted one's."
)
_ADAPTER = flags.DEFINE_bool('adapter', False, 'The LoRA adapter instead of the merged weights.')
_BASE_NAME = flags.DEFINE_string(
  'base_name', None, 'With --adapter: name or path under which the base is loaded.'
)

_MAX_RANK = flags.DEFINE_integer(
  'max_rank',
  None,
  'With --adapter: refuse one of a higher rank. The public challenge takes 32 at most.',
  lower_bound=1,
)


def main(argv: list[str]) -> None:
  if len(argv) != 2:
    raise app.UsageError('say which run: aevo export RUN_DIRECTORY --out=DIRECTORY')
  if _ADAPTER.value != (_BASE_NAME.value is not None):
    raise app.UsageError('--adapter and --base_name go together: an adapter names its base')
  if _MAX_RANK.value is not None and not _ADAPTER.value:
    raise app.UsageError('--max_rank is of an adapter; say --adapter too')
  logging.set_verbosity(logging.WARNING)
  run, out = pathlib.Path(argv[1]), pathlib.Path(_OUT.value)
  if out.exists():
    sys.exit(f'export: {out} exists; choose another --out')
  from aevo_jax.checkpoint.digest import ManifestError
  from aevo_jax.ledger.records import LedgerError
  from aevo_jax.report.gains import ScoreFileError
  from aevo_jax.report.winner import NoWinnerError

  try:
    export(run, out)
  except (NoWinnerError, ManifestError, LedgerError, ScoreFileError) as error:
    sys.exit(f'export: {error}')
  except OSError as error:
    sys.exit(f'export: {faults.explain(error)}')


def export(run: pathlib.Path, out: pathlib.Path) -> None:
  """Writes `out`, whole or not at all."""
  from aevo_jax.campaign.trial.spec import EXPORT
  from aevo_jax.models.hf import checkpoint
  from aevo_jax.report import model_card
  from aevo_jax.report import winner as winner_lib
  from aevo_jax.report.audit.audited_run import AuditedRun
  from aevo_jax.report.run_view import RunView
  from aevo_jax.substrate import build

  audited = AuditedRun(run)
  winner = winner_lib.find(audited, starting=_STARTING.value)
  out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f'.{out.name}-', dir=out.parent) as staging:
    stage = pathlib.Path(staging) / 'export'
    if _ADAPTER.value:
      write_adapter(winner, stage, _BASE_NAME.value, _MAX_RANK.value)
    else:
      stage.mkdir()
      shutil.copyfile(winner.directory / EXPORT, stage / checkpoint.WEIGHTS)
      shutil.copyfile(winner.base / checkpoint.CONFIG, stage / checkpoint.CONFIG)
    for name in build.CARRIED:
      if name != checkpoint.CONFIG:
        shutil.copyfile(winner.base / name, stage / name)
    (stage / 'README.md').write_text(
      model_card.text(audited, RunView(run), winner, adapter=_ADAPTER.value)
    )
    stage.rename(out)
  print(
    f'{winner.trial.trial} of {run} written to {out}; its README.md says how it scored '
    'and where it comes from'
  )


def write_adapter(winner, stage: pathlib.Path, base_name: str, max_rank: int | None = None) -> None:
  """Makes `stage` with the adapter that the winning trial trained, from its sealed checkpoint;
  `base_name` is what it names as its base, `max_rank` the highest rank.
  """
  from aevo_jax.campaign.trial import submission
  from aevo_jax.report.winner import NoWinnerError

  try:
    submission.write_adapter(
      stage, winner.directory, winner.base, winner.recipe, base_name=base_name, max_rank=max_rank
    )
  except submission.NoSubmissionError as error:
    raise NoWinnerError(f'{error}; without --adapter the weights are exported') from error


if __name__ == '__main__':
  app.run(main)
