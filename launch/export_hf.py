"""Write any result as a Hugging Face checkpoint: a base, a run, a campaign, a trial, an adapter.

  aevo export_hf BASE --out=DIR                         in the shards that were imported
  aevo export_hf BASE --out=DIR --max_shard_size=5GB    in shards of at most that size
  aevo export_hf my_run --out=DIR                       what aevo train or aevo pretrain made
  aevo export_hf my_run/checkpoints --step=200 --out=DIR
  aevo export_hf runs/demo --out=DIR                    the winner; --starting as in aevo export
  aevo export_hf runs/demo/trials/r0w1 --out=DIR        what a trial sealed

The result is safetensors with config, tokenizer and a card. Of an import, tensors have their
original names, dtypes and shards. Where LoRA was trained, adapter/ holds the adapter for PEFT.
"""

import pathlib
import sys

from absl import flags

from aevo_jax import command, faults
from aevo_jax.export import results

COMMAND = command.Command(
  'export_hf',
  __doc__,
  takes=('RESULT',),
  reads=('RESULT', 'base'),
  makes=('out',),
  no_gin='an export takes everything from the result',
)
_OUT = flags.DEFINE_string(
  'out',
  None,
  'Directory of the checkpoint; must not exist.',
  required=True,
  flag_values=COMMAND.flags,
)
_MAX_SHARD_SIZE = flags.DEFINE_string(
  'max_shard_size',
  None,
  (
    'Most bytes of tensors in a file, such as 500MB or 5GB; if not given, the shards are '
    'those of the import.'
  ),
  flag_values=COMMAND.flags,
)
_STEP = flags.DEFINE_integer(
  'step',
  None,
  'Of a run: this checkpoint, in place of its export or its latest.',
  lower_bound=0,
  flag_values=COMMAND.flags,
)
_STARTING = flags.DEFINE_bool(
  'starting',
  False,
  "Of a campaign: a retraining of the starting recipe instead of the promoted one's.",
  flag_values=COMMAND.flags,
)
_BASE = flags.DEFINE_string(
  'base',
  None,
  "Of a run's checkpoint or an adapter: its base, where that no longer lies where it lay.",
  flag_values=COMMAND.flags,
)


@COMMAND
def main(arguments: list[str]) -> None:
  """Finds what the path holds, writes it and prints its size."""
  try:
    result = results.find(pathlib.Path(arguments[0]), _STEP.value)
  except results.ResultError as error:
    sys.exit(f'export_hf: {error}')
  _check_read(result)
  print(f'found {result.words()}')
  # Imported here, so that a wrong flag or path is answered before JAX starts.
  from aevo_jax.checkpoint.digest import ManifestError
  from aevo_jax.export import written
  from aevo_jax.ledger.records import LedgerError
  from aevo_jax.report.gains import ScoreFileError
  from aevo_jax.substrate import hf_export

  out = pathlib.Path(_OUT.value)
  base = None
  if _BASE.value:
    base = pathlib.Path(_BASE.value)
  try:
    size = None
    if _MAX_SHARD_SIZE.value:
      size = hf_export.parse_size(_MAX_SHARD_SIZE.value)
    options = written.Options(size, _STARTING.value, base)
    remarks = written.write(result, out, options)
  except (ValueError, ManifestError, LedgerError, ScoreFileError) as error:
    sys.exit(f'export_hf: {error}')
  except OSError as error:
    sys.exit(f'export_hf: {faults.explain(error)}')
  except KeyboardInterrupt:
    sys.exit(f'\nexport_hf: interrupted; there is no {out}')
  for remark in remarks:
    print(remark)
  files = list(out.glob('*.safetensors'))
  total = sum(path.stat().st_size for path in files)
  print(f'{out}: {len(files)} safetensors files, {total / 1e6:,.1f} MB')


def _check_read(result: results.Result) -> None:
  """Ends the command where a flag is given that this result does not read."""
  if _STARTING.value and not isinstance(result, results.Campaign):
    sys.exit(f'export_hf: --starting is of a campaign, and this is {result.words()}; leave it out')
  trained = isinstance(result, results.Training) and not result.pretrained
  if _BASE.value and not trained and not isinstance(result, results.Adapter):
    sys.exit(
      f"export_hf: --base is of a run's checkpoint or an adapter, and this is {result.words()}; "
      'leave it out'
    )


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
