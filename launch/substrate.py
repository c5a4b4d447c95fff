"""Build, pin or verify a substrate: the digests in its manifest.json.

  aevo substrate verify            what differs from the manifest
  aevo substrate pin               after a review: write the digests of what lies here now
  aevo substrate build --from_hf=DIRECTORY --out=my_substrate

`build` makes a substrate of a Hugging Face checkpoint, checked and pinned. `verify` and `pin` take
--substrate=DIRECTORY for one of your own; so does `aevo campaign`. The manifest holds the digests
of the base checkpoint, the code tree and the default recipe.
"""

import pathlib
import sys

from absl import app, flags

from aevo_jax import command, faults, layout

COMMAND = command.Command(
  'substrate',
  __doc__,
  takes=('ACTION',),
  reads=('from_hf', 'substrate'),
  makes=('out',),
  no_gin='a substrate is made from its folder alone',
)
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
  """Checks the flags and does one of the three actions."""
  if arguments not in (['pin'], ['verify'], ['build']):
    raise app.UsageError(
      f'no action {arguments[0]!r}; say `aevo substrate verify`, `aevo substrate pin` or '
      '`aevo substrate build`'
    )
  action = arguments[0]
  has_build_flags = _FROM_HF.value is not None and _OUT.value is not None
  if (action == 'build') != has_build_flags or (action == 'build' and _SUBSTRATE.value):
    raise app.UsageError(
      '`aevo substrate build` takes --from_hf=DIRECTORY and --out=DIRECTORY, the other '
      'two --substrate=DIRECTORY'
    )
  try:
    if action == 'build':
      build_from_hf(pathlib.Path(_FROM_HF.value), pathlib.Path(_OUT.value))
    elif _SUBSTRATE.value:
      measure(action, pathlib.Path(_SUBSTRATE.value), flag=f' --substrate={_SUBSTRATE.value}')
    else:
      measure(action, layout.root_file('substrate'))
  except OSError as error:
    sys.exit(f'substrate: {faults.explain(error)}')


def build_from_hf(source: pathlib.Path, out: pathlib.Path) -> None:
  """Writes a substrate; a checkpoint that is wrong ends the command with its message.

  Args:
    source: directory of a Hugging Face checkpoint or an import.
    out: the new substrate.
  """
  from safetensors import SafetensorError

  from aevo_jax.checkpoint.digest import ManifestError
  from aevo_jax.data import chat_template
  from aevo_jax.models.hf import checkpoint
  from aevo_jax.substrate import build, from_hf

  try:
    identity, unused = from_hf.write(
      source, out, recipe=layout.root_file('substrate') / build.RECIPE, package_root=PACKAGE_ROOT
    )
  except (ValueError, SafetensorError, ManifestError) as error:
    sys.exit(f'substrate: {error}')
  if unused:
    shown = unused[:3]
    if len(unused) > len(shown):
      shown = [*shown, '...']
    print(
      f'left behind, since the model does not use them: {", ".join(shown)} ({len(unused)} in all)'
    )
  base = out / build.BASE
  for remark in (*chat_template.remarks(str(base)), *checkpoint.remarks(base)):
    print(remark)
  print(
    f'pinned {identity} in {out / build.MANIFEST}\nstart from it with: aevo campaign '
    f'--substrate={out} ...'
  )


def measure(action: str, root: pathlib.Path, flag: str = '') -> None:
  """Pins or verifies a substrate; a difference ends the command.

  Args:
    action: 'pin' or 'verify'.
    root: the substrate's folder.
    flag: how the command names that folder, for the message.
  """
  from aevo_jax.substrate import build, manifest

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
