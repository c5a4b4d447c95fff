"""Weights that were trained, in the form of their base: a base of its own, with a card.

    DIR/            config, tokenizer and weights: of an import in its dtypes, names and shards; of
                    any other base in float32, without the tensors that the forward does not use
    DIR/adapter/    where LoRA was trained, the adapter in PEFT's form, with a card of its own
    DIR/README.md   license and name of the base, the code's commit, and where the weights come from

The adapter has a folder of its own, since transformers takes a directory with an
adapter_config.json for an adapter, whatever else lies there.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError

from aevo_jax import provenance
from aevo_jax.checkpoint.digest import logical_digest
from aevo_jax.data import chat_template
from aevo_jax.models import weights
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint, front_matter, peft_adapter, stream
from aevo_jax.models.hf.stored import INDEX
from aevo_jax.substrate import hf_export, source, transfer

ADAPTER = 'adapter'
PUZZLES = 'the puzzles that the code generates'


class ExportError(ValueError):
  """An export that cannot be written; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Trained:
  """What was trained, and what its card says of it.

  Attributes:
    base: directory of the base, with config.json and tokenizer.
    config: the model's.
    params: every parameter of the decoder by our names, adapters merged.
    title: of the card.
    facts: rows of the card's table: what -> value.
    base_model: name of the base; '' where the weights have none.
    tasks: digest of the tasks that were trained on, or `PUZZLES`.
    adapter: of the base, where one was trained.
  """

  base: pathlib.Path
  config: ModelConfig
  params: Mapping[str, Any]
  title: str
  facts: Mapping[str, str]
  base_model: str
  tasks: str = PUZZLES
  adapter: peft_adapter.Adapter | None = None


def write(trained: Trained, out: pathlib.Path) -> list[str]:
  """Writes weights, card and adapter.

  Args:
    trained: what was trained.
    out: the directory; one that is there already is replaced.

  Returns:
    Remarks for a person: tensors of the base that are left out, an adapter that PEFT has no form
    for.

  Raises:
    ExportError: the weights cannot be written.
    TransferError, ManifestError: see `hf_export.export_hf`.
  """
  remarks = write_weights(trained.base, out, trained.params, trained.config)
  (out / front_matter.CARD).write_text(card(trained, library_name='transformers'))
  if trained.adapter is not None:
    try:
      peft_adapter.save(
        out / ADAPTER,
        trained.adapter.params,
        trained.config,
        trained.adapter,
        str(trained.base.absolute()),
      )
    except peft_adapter.AdapterError as error:
      return [*remarks, f'no adapter in the export: {error}']
    carry(trained.base, out / ADAPTER, without=(checkpoint.CONFIG,))
    (out / ADAPTER / front_matter.CARD).write_text(card(trained, library_name='peft'))
  return remarks


def write_weights(
  base: pathlib.Path, out: pathlib.Path, params: Mapping[str, Any], config: ModelConfig
) -> list[str]:
  """Writes weights, config and tokenizer.

  Args:
    base: the base that was trained.
    out: the directory; one that is there already is replaced.
    params: every parameter by our names.
    config: the model's.

  Returns:
    As `write`.

  Raises:
    ChatTemplateError, ValueError: see `chat_template.check`.
    Also as `write`.
  """
  chat_template.check(base)
  shutil.rmtree(out, ignore_errors=True)
  stored = (base / weights.CHECKPOINT).is_dir()
  # A base that `aevo substrate build` made has a source.json of its own, of digests.
  if stored and (base / source.FILE).is_file():
    return hf_export.export_hf(base, out, params=params).remarks
  out.mkdir(parents=True)
  try:
    checkpoint.save_weights(out / checkpoint.WEIGHTS, params, config)
  except SafetensorError as error:
    raise ExportError(f'{out / checkpoint.WEIGHTS}: {error}') from error
  carry(base, out, without=(checkpoint.CONFIG,))
  checkpoint.save_config(base, out)
  # A base that is being pretrained has no weights of its own yet.
  is_checkpoint = any((base / name).is_file() for name in (checkpoint.WEIGHTS, INDEX))
  unused = stream.Reader(base).unused if is_checkpoint and not stored else ()
  if not unused:
    return []
  return [
    f'not in the export, since the model does not use them: {unused[0]} ({len(unused)} in all); '
    'aevo import_hf makes a base that keeps them'
  ]


def carry(base: pathlib.Path, out: pathlib.Path, without: tuple[str, ...] = ()) -> None:
  """Copies what a base holds beside its weights."""
  for name in transfer.CARRIED:
    if name not in without and (base / name).is_file():
      shutil.copyfile(base / name, out / name)


def card(trained: Trained, *, library_name: str) -> str:
  """Writes README.md.

  Args:
    trained: what was trained.
    library_name: that loads the directory: 'peft' for the adapter's.

  Returns:
    Markdown, behind a head that hub and libraries read.
  """
  code = provenance.of_package()
  head = front_matter.write(
    trained.base,
    base_model=trained.base_model,
    library_name=library_name,
    provenance={'code': code.words(), 'version': code.version, 'tasks': trained.tasks},
  )
  what = 'Weights'
  if library_name == 'peft':
    what = f'LoRA adapter of `{trained.base_model}`'
  rows = dict(trained.facts) | {
    'base': trained.base_model,
    'tasks': trained.tasks,
    'tensors of the weights': logical_digest(trained.params),
    'code': code.words(),
  }
  lines = [f'| {name} | `{value}` |' for name, value in rows.items()]
  table = '\n'.join(lines)
  return f'{head}\n# {trained.title}\n\n{what}.\n\n| what | value |\n|---|---|\n{table}\n'
