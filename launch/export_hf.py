"""Write an imported base as a Hugging Face checkpoint again.

  aevo export_hf BASE --out=DIR                         in the shards that were imported
  aevo export_hf BASE --out=DIR --max_shard_size=5GB    in shards of at most that size

The result is safetensors shards with an index, under the tensors' original names.
"""

import pathlib
import sys

from absl import flags, logging

from aevo_jax import command, faults

COMMAND = command.Command(
  'export_hf',
  __doc__,
  takes=('RESULT',),
  reads=('RESULT',),
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


@COMMAND
def main(arguments: list[str]) -> None:
  """Writes the checkpoint and prints its size."""
  # Imported here, so that a wrong flag is answered before JAX starts.
  from aevo_jax.checkpoint.digest import ManifestError
  from aevo_jax.substrate import hf_export

  logging.set_verbosity(logging.WARNING)
  out = pathlib.Path(_OUT.value)
  try:
    size = hf_export.export_hf(
      pathlib.Path(arguments[0]),
      out,
      max_shard_size=_MAX_SHARD_SIZE.value and hf_export.parse_size(_MAX_SHARD_SIZE.value),
    )
  except (ValueError, ManifestError) as error:
    sys.exit(f'export_hf: {error}')
  except OSError as error:
    sys.exit(f'export_hf: {faults.explain(error)}')
  except KeyboardInterrupt:
    sys.exit(f'\nexport_hf: interrupted; there is no {out}')
  print(f'{out}: {len(list(out.glob("*.safetensors")))} safetensors files, {size / 1e6:,.1f} MB')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
