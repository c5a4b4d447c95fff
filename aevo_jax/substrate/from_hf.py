"""A substrate from a Hugging Face directory or an import.

The checkpoint is checked and written as a base, beside the starting recipe, and pinned.

    OUT/base/             model.safetensors (float32, as it is trained), config.json,
                          tokenizer.json, tokenizer_config.json (with the chat template),
                          generation_config.json
    OUT/base/source.json  SHA-256 of the files it was made from
    OUT/recipe.gin        the project's starting recipe, to be edited and pinned again
    OUT/manifest.json

Tensors that the forward does not use (multi-token prediction) are left behind, and config.json says
that there are none.
"""

import json
import pathlib
import shutil
import tempfile
from typing import Any, NamedTuple

import tokenizers

from aevo_jax.checkpoint import durable
from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.data import chat_template
from aevo_jax.data import tokenizer as tokenizer_lib
from aevo_jax.data.chat_template import ChatFormat
from aevo_jax.models import weights
from aevo_jax.models.hf import checkpoint, front_matter, stream
from aevo_jax.substrate import build, manifest
from aevo_jax.substrate import source as source_lib

TOKENIZER = 'tokenizer.json'


class ImportRefusedError(ValueError):
  """The checkpoint cannot be a base; the message names the file and the fix."""


class Written(NamedTuple):
  """A substrate that was written.

  Attributes:
    identity: of the substrate.
    unused: names of the stored tensors that were left behind.
  """

  identity: str
  unused: tuple[str, ...]


def write(
  source: pathlib.Path, out: pathlib.Path, *, recipe: pathlib.Path, package_root: pathlib.Path
) -> Written:
  """Checks a checkpoint and writes a substrate, all of it or nothing.

  Args:
    source: the checkpoint's directory, or an import's.
    out: the substrate's directory, which must not exist.
    recipe: the starting recipe to copy.
    package_root: the directory that holds the code to pin.

  Returns:
    The substrate's identity, and what was left behind.

  Raises:
    ImportRefusedError: `out` exists, or the checkpoint lacks something or does not fit together.
    ChatTemplateError: see `chat_template.read`.
    ValueError, SafetensorError, ManifestError: config.json or weights cannot be read.
  """
  if out.exists():
    raise ImportRefusedError(f'{out} exists; choose another --out')
  config = checkpoint.read_config(source)
  chat = chat_template.read(str(source))
  tokenizer = tokenizer_lib.load(str(source))
  params = weights.load(source, config)
  unused = _unused(source)
  out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f'.{out.name}-', dir=out.parent) as staging:
    stage = pathlib.Path(staging) / 'substrate'
    base = stage / build.BASE
    base.mkdir(parents=True)
    checkpoint.save_weights(base / checkpoint.WEIGHTS, params, config)
    checkpoint.save_config(source, base)
    shutil.copyfile(source / TOKENIZER, base / TOKENIZER)
    for name in (front_matter.CARD, *front_matter.LICENSE_FILES):
      if (source / name).is_file():
        shutil.copyfile(source / name, base / name)
    tokenizer_config = json.loads((source / chat_template.TOKENIZER_CONFIG).read_text())
    _write_json(
      base / chat_template.TOKENIZER_CONFIG, tokenizer_config | {'chat_template': chat.template}
    )
    _write_json(base / chat_template.GENERATION_CONFIG, _generation(source, chat, tokenizer))
    digests = {str(path.relative_to(source)): file_digest(path) for path in _files(source)}
    _write_json(base / 'source.json', digests)
    shutil.copyfile(recipe, stage / build.RECIPE)
    measured = build.measure(stage, package_root)
    manifest.write(stage / build.MANIFEST, measured)
    durable.fsync_tree(stage)
    stage.rename(out)
  return Written(build.identity(measured), unused)


def _unused(source: pathlib.Path) -> tuple[str, ...]:
  """Lists the stored tensors that are no parameter, of a checkpoint or of an import."""
  if (source / weights.CHECKPOINT).is_dir():
    return source_lib.read(source / source_lib.FILE).unused()
  return stream.Reader(source).unused


def _files(source: pathlib.Path) -> list[pathlib.Path]:
  """Lists the files of a checkpoint or an import, and nothing in other folders beside them."""
  paths = [path for path in source.iterdir() if path.is_file()]
  paths += [path for path in (source / weights.CHECKPOINT).rglob('*') if path.is_file()]
  return sorted(paths)


def _generation(
  source: pathlib.Path, chat: ChatFormat, tokenizer: tokenizers.Tokenizer
) -> dict[str, Any]:
  """Returns generation_config.json, in which the end and pad tokens are spelled out."""
  path = source / chat_template.GENERATION_CONFIG
  fields = {'do_sample': False}
  if path.exists():
    fields = json.loads(path.read_text())
  ids = [tokenizer.token_to_id(chat.eos), *chat.stops]
  return fields | {
    'eos_token_id': ids if len(ids) > 1 else ids[0],
    'pad_token_id': tokenizer.token_to_id(chat.pad),
  }


def _write_json(path: pathlib.Path, fields: dict) -> None:
  path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + '\n')
