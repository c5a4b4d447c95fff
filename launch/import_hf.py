"""Make a base from a Hugging Face checkpoint, one tensor at a time.

  aevo import_hf DIR --out=BASE

DIR holds config.json and model.safetensors, or shards with model.safetensors.index.json. Weights
keep their dtypes; tokenizer files and tensors that the forward does not use are carried along, so
that `aevo export_hf BASE --out=DIR` gives the checkpoint back byte for byte. See
docs/import_export.md.
"""

import pathlib
import sys

from absl import flags

from aevo_jax import command, faults

COMMAND = command.Command(
  'import_hf',
  __doc__,
  takes=('DIRECTORY',),
  reads=('DIRECTORY',),
  makes=('out',),
  no_gin='an import takes everything from the checkpoint',
)
_OUT = flags.DEFINE_string(
  'out',
  None,
  'Directory of the new base; must not exist.',
  required=True,
  flag_values=COMMAND.flags,
)


@COMMAND
def main(arguments: list[str]) -> None:
  """Imports the checkpoint and prints what was carried along."""
  # Imported here, so that a wrong flag is answered before JAX starts.
  from aevo_jax.models.hf import checkpoint
  from aevo_jax.substrate import hf_import

  out = pathlib.Path(_OUT.value)
  try:
    done = hf_import.import_hf(pathlib.Path(arguments[0]), out)
  except ValueError as error:
    sys.exit(f'import_hf: {error}')
  except OSError as error:
    sys.exit(f'import_hf: {faults.explain(error)}')
  except KeyboardInterrupt:
    sys.exit(f'\nimport_hf: interrupted; there is no {out}')
  extra = ''
  if done.extra:
    extra = f' and {done.extra} that the forward does not use'
  print(
    f'{out}: {done.numbers:,} parameters in {done.parameters} tensors{extra}, '
    f'{done.size / 1e6:,.1f} MB, with {", ".join(done.carried)}'
  )
  if done.left:
    print(f'left behind: {", ".join(done.left)}')
  for remark in (*done.remarks, *checkpoint.remarks(out)):
    print(remark)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
