"""Build, pin or verify a substrate: digests of base checkpoint, code tree and default recipe in its
manifest.json.

  aevo substrate verify                                        what differs from the manifest
  aevo substrate pin                                           after a review: write the digests of
  what lies here now aevo substrate build --from_hf=DIRECTORY --out=my_substrate  a substrate of an
  imported checkpoint, checked and pinned

`verify` and `pin` take --substrate=DIRECTORY for one of your own; so does `aevo campaign`.
"""

import pathlib
import sys

from absl import app, flags, logging

from aevo_jax import command, faults, layout
from aevo_jax.substrate import build, manifest

COMMAND = command.Command('substrate', __doc__, no_gin='a substrate is made from its folder alone')
_SUBSTRATE = flags.DEFINE_string(
  'substrate',
  None,
  "Folder of the substrate to pin or verify; the project's if not given.",
  flag_values=COMMAND.flags,
)
_FROM_HF = flags.DEFINE_string(
  'from_hf',
  None,
  (
    'With build: directory with config.json, model.safetensors, tokenizer.json and '
    'tokenizer_config.json; or a base made by aevo import_hf.'
  ),
  flag_values=COMMAND.flags,
)
_OUT = flags.DEFINE_string('out', None, 'With build: the new substrate.', flag_values=COMMAND.flags)

PACKAGE_ROOT = pathlib.Path(layout.__file__).resolve().parent.parent


@COMMAND
def main(arguments: list[str]) -> None:
  if arguments not in (['pin'], ['verify'], ['build']):
    raise app.UsageError(
      'say `aevo substrate verify`, `aevo substrate pin` or `aevo substrate build`'
    )
  if (arguments[0] == 'build') != (_FROM_HF.value is not None and _OUT.value is not None) or (
    arguments[0] == 'build' and _SUBSTRATE.value is not None
  ):
    raise app.UsageError(
      '`aevo substrate build` takes --from_hf=DIRECTORY and --out=DIRECTORY, the other '
      'two --substrate=DIRECTORY'
    )
  logging.set_verbosity(logging.WARNING)
  root = pathlib.Path(_SUBSTRATE.value) if _SUBSTRATE.value else layout.root_file('substrate')
  try:
    if arguments[0] == 'build':
      build_from_hf(pathlib.Path(_FROM_HF.value), pathlib.Path(_OUT.value))
    else:
      measure(arguments[0], root)
  except OSError as error:
    sys.exit(f'substrate: {faults.explain(error)}')


def build_from_hf(source: pathlib.Path, out: pathlib.Path) -> None:
  """Writes the substrate, or says what is wrong with the checkpoint."""
  from safetensors import SafetensorError

  from aevo_jax.checkpoint.digest import ManifestError
  from aevo_jax.substrate import from_hf

  try:
    identity, unused = from_hf.write(
      source, out, recipe=layout.root_file('substrate') / build.RECIPE, package_root=PACKAGE_ROOT
    )
  except (ValueError, SafetensorError, ManifestError) as error:
    sys.exit(f'substrate: {error}')
  if unused:
    print(
      'left behind, since the model does not use them: '
      f'{", ".join(unused[:3])}{", ..." if len(unused) > 3 else ""} ({len(unused)} in all)'
    )
  print(
    f'pinned {identity} in {out / build.MANIFEST}\nstart from it with: aevo campaign '
    f'--substrate={out} ...'
  )


def measure(action: str, root: pathlib.Path) -> None:
  """Pins or verifies what lies at `root`."""
  flag = f' --substrate={root}' if _SUBSTRATE.value else ''
  measured = build.measure(root, PACKAGE_ROOT)
  path = root / build.MANIFEST
  if action == 'pin':
    manifest.write(path, measured)
    print(f'pinned {build.identity(measured)} in {path}')
    return
  differences = manifest.check(manifest.read(path), measured)
  if differences:
    sys.exit(
      'differs from the manifest:\n  '
      + '\n  '.join(differences)
      + f'\nReview, then: aevo substrate pin{flag}'
    )
  print(f'substrate {build.identity(measured)} is the one that was pinned')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
