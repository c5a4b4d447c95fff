"""From `substrate/` (reviewed, committed) to a stored object that workers fork.

  measure   digests of the base's tensors and files, the code tree and the default recipe, as they
            are on this machine
  check     against substrate/manifest.json, which a person pins after an audit (`aevo substrate
            pin`)
  build     base weights -> Orbax checkpoint + tokenizer, config and recipe in one store object

A substrate's identity is made of content digests only; the object's own digest names one stored
copy, since Orbax lays identical arrays out differently each time.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import tempfile

import numpy as np

from aevo_jax import layout
from aevo_jax.checkpoint import digest as digest_lib
from aevo_jax.checkpoint import orbax_io
from aevo_jax.config.statements import digest as statements_digest
from aevo_jax.config.statements import parse_statements
from aevo_jax.data.corpus import TRAIN
from aevo_jax.models import weights
from aevo_jax.models.hf import checkpoint, front_matter
from aevo_jax.substrate import code_digest
from aevo_jax.substrate import manifest as manifest_lib
from aevo_jax.substrate.manifest import BaseCheckpoint, CodeTree, SubstrateManifest
from aevo_jax.substrate.store import Store

BASE = 'base'
RECIPE = 'recipe.gin'
MANIFEST = 'manifest.json'
CARRIED = ('config.json', 'tokenizer.json', 'tokenizer_config.json', 'generation_config.json')


class SubstrateMismatchError(ValueError):
  """What lies here is not what was audited."""


@dataclasses.dataclass(frozen=True)
class Substrate:
  """A stored substrate.

  Attributes:
    identity: digest of the contents.
    object: digest of the stored copy.
    recipe: the starting recipe's text.
  """

  identity: str
  object: str
  recipe: str


def weights_digest(path: pathlib.Path, directory: pathlib.Path) -> str:
  """Computes the logical digest of a safetensors file, by our parameter names.

  Args:
    path: the file.
    directory: with the config.json of the model that it must hold.

  Returns:
    The digest of the parameters in float32.

  Raises:
    ValueError: the file is not of that model.
  """
  return digest_lib.logical_digest(weights.load(path, checkpoint.read_config(directory)))


def measure(root: pathlib.Path, package_root: pathlib.Path) -> SubstrateManifest:
  """Computes the digests of a substrate and of the code.

  Args:
    root: the substrate's directory.
    package_root: the directory that holds aevo_jax/.

  Returns:
    What a manifest of them would say.
  """
  base = root / BASE
  tensors = weights_digest(base / checkpoint.WEIGHTS, base)
  files = {name: digest_lib.file_digest(base / name) for name in (checkpoint.WEIGHTS, *CARRIED)}
  code, code_files = code_digest.code_tree_digest(package_root)
  recipe = statements_digest(parse_statements((root / RECIPE).read_text()))
  return SubstrateManifest(BaseCheckpoint(tensors, files), CodeTree(code, code_files), recipe)


def identity(measured: SubstrateManifest) -> str:
  """Computes one digest for base tensors, carried files, code and recipe.

  Args:
    measured: the digest of each.

  Returns:
    SHA-256 in hex.
  """
  text = json.dumps(dataclasses.asdict(measured), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def build(
  root: pathlib.Path, measured: SubstrateManifest, store: Store, train: str = ''
) -> Substrate:
  """Checks a substrate against its manifest and stores it, unless it is stored already.

  Args:
    root: the substrate's directory, with its manifest.json.
    measured: its digests, from `measure`.
    store: where it goes.
    train: lines to train on, which the stored object carries for the workers; '' where the code
      generates them.

  Returns:
    The stored substrate.

  Raises:
    SubstrateMismatchError: listing what differs from the manifest.
  """
  differences = manifest_lib.check(manifest_lib.read(root / MANIFEST), measured)
  if differences:
    raise SubstrateMismatchError(
      'the substrate is not the one that was pinned:\n  '
      + '\n  '.join(differences[:12])
      + f'\nReview the change, then run: aevo substrate pin{_flag(root)}'
    )
  name = identity(measured)
  carried = f'-{hashlib.sha256(train.encode()).hexdigest()}' if train else ''
  pointer = store.root / 'identities' / f'{name}{carried}'
  recipe = (root / RECIPE).read_text()
  if pointer.exists():
    stored = pointer.read_text()
    path = store.verify(stored) / TRAIN
    stored_train = ''
    if path.exists():
      stored_train = path.read_text()
    if stored_train != train:
      raise SubstrateMismatchError(
        f'{pointer} names a stored substrate with other tasks to train on; remove that '
        'file, and the substrate is stored anew'
      )
    return Substrate(name, stored, recipe)
  stored = _store(root, measured, store, train)
  pointer.parent.mkdir(exist_ok=True)
  pointer.write_text(stored)
  return Substrate(name, stored, recipe)


def _store(root: pathlib.Path, measured: SubstrateManifest, store: Store, train: str) -> str:
  """Stores a substrate that was checked; returns the object's digest."""
  with tempfile.TemporaryDirectory(dir=store.root) as staging:
    stage = pathlib.Path(staging)
    params = weights.load(root / BASE / checkpoint.WEIGHTS)
    orbax_io.save(
      stage / weights.CHECKPOINT,
      {name: np.asarray(value) for name, value in params.items()},
      metadata={'logical_digest': measured.base_checkpoint.logical_digest},
    )
    for file in CARRIED:
      shutil.copyfile(root / BASE / file, stage / file)
    for file in (front_matter.CARD, *front_matter.LICENSE_FILES):
      if (root / BASE / file).is_file():
        shutil.copyfile(root / BASE / file, stage / file)
    shutil.copyfile(root / RECIPE, stage / RECIPE)
    if train:
      (stage / TRAIN).write_text(train)
    return store.put(stage)


def _flag(root: pathlib.Path) -> str:
  """Returns the flag that a command needs for this substrate."""
  return '' if root == layout.root_file('substrate') else f' --substrate={root}'


def load_base(
  directory: pathlib.Path, *, logical_digest: str | None = None
) -> dict[str, np.ndarray]:
  """Reads the base of an opened fork.

  Args:
    directory: a stored substrate.
    logical_digest: that the base must have; None checks its manifest only.

  Returns:
    Arrays by our parameter names, in their stored dtypes.

  Raises:
    ManifestError: the stored files are not those that were written.
    SubstrateMismatchError: the base has another digest.
  """
  params = weights.load(directory, dtype=weights.as_stored)
  if logical_digest is not None and digest_lib.logical_digest(params) != logical_digest:
    raise SubstrateMismatchError(
      f'the base checkpoint in {directory} does not have the pinned logical digest {logical_digest}'
    )
  return {name: np.asarray(value) for name, value in params.items()}
