"""Pin or verify the substrate: digests of base checkpoint, code tree and default recipe in substrate/manifest.json.

  aevo substrate verify      what differs from the manifest
  aevo substrate pin         after a review: write the digests of what lies here now
"""

import pathlib
import sys

from absl import app

from aevo_jax import layout
from aevo_jax.substrate import build, manifest


def main(argv: list[str]) -> None:
  if argv[1:] not in (['pin'], ['verify']):
    raise app.UsageError('say `aevo substrate verify` or `aevo substrate pin`')
  root = layout.root_file('substrate')
  measured = build.measure(root, pathlib.Path(layout.__file__).resolve().parent.parent)
  path = root / build.MANIFEST
  if argv[1] == 'pin':
    manifest.write(path, measured)
    print(f'pinned {build.identity(measured)} in {path}')
    return
  differences = manifest.check(manifest.read(path), measured)
  if differences:
    sys.exit('differs from the manifest:\n  ' + '\n  '.join(differences) + '\nReview, then: aevo substrate pin')
  print(f'substrate {build.identity(measured)} is the one that was pinned')


if __name__ == '__main__':
  app.run(main)
