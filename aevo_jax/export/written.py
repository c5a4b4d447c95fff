"""A result, whatever it is, as one new directory in Hugging Face's layout."""

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from aevo_jax.checkpoint import orbax_io, run_directory
from aevo_jax.checkpoint.digest import logical_digest
from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.evaluation import model_files, stored_model
from aevo_jax.export import results, sealed, trained
from aevo_jax.models import scan_layers, weights
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint, front_matter
from aevo_jax.models.params import is_adapter, resident_dtype
from aevo_jax.report import model_card
from aevo_jax.report import winner as winner_lib
from aevo_jax.report.audit.audited_run import AuditedRun
from aevo_jax.report.run_view import RunView
from aevo_jax.substrate import hf_export, manifest, source
from aevo_jax.training import trained_adapter
from aevo_jax.training.model_setup import decoder_params
from aevo_jax.training.recipe.recipe import Adaptation, Lora, Recipe


@dataclasses.dataclass(frozen=True)
class Options:
  """How a result is written.

  Attributes:
    max_shard_size: bytes of tensors in a file; None for the result's own files.
    starting: of a campaign, a retraining of the starting recipe.
    base: of a run's checkpoint or an adapter, where the base lies now; None where it lay.
  """

  max_shard_size: int | None = None
  starting: bool = False
  base: pathlib.Path | None = None


def write(result: results.Result, out: pathlib.Path, options: Options) -> list[str]:
  """Writes a result, all of it or nothing.

  Args:
    result: what `results.find` found.
    out: new directory.
    options: how.

  Returns:
    Remarks for a person.

  Raises:
    ResultError, TransferError, ExportError, NoWinnerError, StoredModelError, ManifestError,
    LedgerError: it cannot be exported; the message says why.
  """
  if isinstance(result, results.Base) and _is_plain(result.directory):
    done = hf_export.export_hf(result.directory, out, max_shard_size=options.max_shard_size)
    extra = result.directory / trained.ADAPTER
    if (extra / model_files.ADAPTER_CONFIG).is_file():
      shutil.copytree(extra, out / trained.ADAPTER)
    return done.remarks
  out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f'.{out.name}-', dir=out.parent) as staging:
    stage = pathlib.Path(staging) / 'export'
    remarks = _fill(result, stage, options)
    if options.max_shard_size is not None:
      _split(stage, options.max_shard_size)
    stage.rename(out)
  return remarks


def _is_plain(directory: pathlib.Path) -> bool:
  """Whether a base is an import or a checkpoint, and no stored substrate, which keeps no names."""
  return not (directory / weights.CHECKPOINT).is_dir() or (directory / source.FILE).is_file()


def _split(stage: pathlib.Path, max_shard_size: int) -> None:
  """Puts the weights of a finished directory into shards."""
  whole = stage.with_name('whole')
  stage.rename(whole)
  hf_export.export_hf(whole, stage, max_shard_size=max_shard_size)
  if (whole / trained.ADAPTER).is_dir():
    (whole / trained.ADAPTER).rename(stage / trained.ADAPTER)


def _fill(result: results.Result, stage: pathlib.Path, options: Options) -> list[str]:
  """Makes `stage` of a result that is no checkpoint yet."""
  if isinstance(result, results.Campaign):
    return fill_winner(result.run, stage, sealed.ExportOptions(), starting=options.starting)
  if isinstance(result, results.Trial):
    return _fill_trial(result, stage)
  if isinstance(result, results.Adapter):
    return trained.write(_merged(result, options.base), stage)
  if isinstance(result, results.Base):
    return trained.write(_stored(result), stage)
  if result.pretrained:
    with _pretrained(result) as found:
      return trained.write(found, stage)
  return trained.write(_checkpoint(result, options.base), stage)


def fill_winner(
  path: pathlib.Path, stage: pathlib.Path, options: sealed.ExportOptions, *, starting: bool
) -> list[str]:
  """Makes a directory of a campaign's winner, with its card.

  Args:
    path: of the campaign.
    stage: directory to make.
    options: weights or adapter.
    starting: take a retraining of the starting recipe.

  Returns:
    Remarks for a person; the first names the trial.
  """
  run = AuditedRun(path)
  winner = winner_lib.find(run, starting=starting)
  base = sealed.base_model(run, winner.base)
  code = sealed.code_of(manifest.read(path / 'substrate.json').code_tree.digest)

  def card(form: str) -> str:
    return model_card.text(
      run,
      RunView(path),
      winner,
      adapter=form == 'adapter',
      base_model=options.base_name or base,
      code=code,
    )

  remarks = sealed.fill(winner, card, stage, options, sealed.base_directory(run))
  return [f'{winner.trial.trial} of {path}', *remarks]


def _fill_trial(result: results.Trial, stage: pathlib.Path) -> list[str]:
  run = AuditedRun(result.run)
  winner = winner_lib.sealed_trial(run, result.name)

  def card(form: str) -> str:
    return sealed.trial_card(run, winner, form)

  options = sealed.ExportOptions()
  return sealed.fill(winner, card, stage, options, sealed.base_directory(run))


def _merged(result: results.Adapter, base: pathlib.Path | None) -> trained.Trained:
  """Reads an adapter and merges it into its base."""
  file = result.directory / model_files.ADAPTER
  if base is None:
    base = model_files.find_base(file)
  model = stored_model.read(file, base)
  said = front_matter.read(result.directory).get('aevo_jax') or {}
  return trained.Trained(
    base=base,
    config=model.config,
    params=model.params,
    title='A base with a LoRA adapter merged into it',
    facts={'adapter': str(result.directory), 'its file': model.digest['file_digest']},
    base_model=front_matter.base_name(base),
    tasks=said.get('tasks', 'not recorded'),
  )


def _stored(result: results.Base) -> trained.Trained:
  """Reads a stored substrate."""
  config = checkpoint.read_config(result.directory)
  params = weights.load(result.directory, config)
  return trained.Trained(
    base=result.directory,
    config=config,
    params=params,
    title='The base of a stored substrate',
    facts={},
    base_model=front_matter.base_name(result.directory),
    tasks='none: nothing was trained',
  )


@contextlib.contextmanager
def _pretrained(result: results.Training) -> Iterator[trained.Trained]:
  """Reads a checkpoint of `aevo pretrain`, whose base has no config.json before its end."""
  started = json.loads((result.run / run_directory.PRETRAIN).read_text())
  fields = {}
  for name, value in started['model'].items():
    fields[name] = tuple(value) if isinstance(value, list) else value
    if value == 'inf':
      fields[name] = math.inf
  config = ModelConfig(**fields)
  with tempfile.TemporaryDirectory() as folder:
    base = pathlib.Path(folder)
    tokenizers.save(base, config.max_position_embeddings)
    tokenizer = tokenizers.load(str(base))
    saved = checkpoint.config_to_hf(
      config,
      eos_token_id=tokenizer.token_to_id(tokenizers.EOS),
      pad_token_id=tokenizer.token_to_id(tokenizers.PAD),
    )
    (base / checkpoint.CONFIG).write_text(json.dumps(saved, indent=2) + '\n')
    state, step = _state(result)
    yield trained.Trained(
      base=base,
      config=config,
      params=decoder_params(state, config, Recipe()),
      title=f'A base after {step} steps of aevo pretrain',
      facts={'step': f'{step} of {started["pretrain"]["steps"]}'},
      base_model='none: trained from its first weights',
    )


def _state(result: results.Training) -> tuple[dict[str, Any], int]:
  """Reads the trained parameters of a checkpoint, and its step."""
  step = result.step
  if step is None:
    step = orbax_io.latest_step(result.checkpoints)
  assert step is not None, 'results.find has found a step'
  tree = orbax_io.restore(orbax_io.step_directory(result.checkpoints, step))
  params = tree.get('ema') or tree['params']
  return {name: jnp.asarray(value) for name, value in params.items()}, step


def _checkpoint(result: results.Training, base: pathlib.Path | None) -> trained.Trained:
  """Reads a checkpoint of `aevo train`, on the base that it was trained on."""
  run = result.run
  started = json.loads((run / run_directory.TRAIN).read_text())
  if base is None:
    base = _origin(run)
  config = dataclasses.replace(checkpoint.read_config(base), **started['execution'])
  sections = started['recipe']
  recipe = Recipe(adaptation=Adaptation(**sections['adaptation']), lora=Lora(**sections['lora']))
  by_adapter = recipe.adaptation.method == 'lora'
  dtype = functools.partial(resident_dtype, frozen=by_adapter)
  params = weights.load(base, config, dtype=dtype)
  if logical_digest(params) != started['base']:
    raise results.ResultError(
      f'{base} is not the base that {run} was trained on; give that one with --base=DIRECTORY'
    )
  state, step = _state(result)
  paths = [orbax_io.step_directory(result.checkpoints, step)]
  if result.checkpoints.parent.name == trained_adapter.THEN and by_adapter:
    before = results.Training(run, run / trained_adapter.CHECKPOINTS, None)
    first, first_step = _state(before)
    paths.insert(0, orbax_io.step_directory(before.checkpoints, first_step))
    params = _adapted(params, first, config, recipe)
    if config.scan:
      params = scan_layers.stack(params, config.pattern)
  params = _adapted(params, state, config, recipe)
  adapter = None
  if by_adapter:
    adapter = trained_adapter.read(paths, recipe.lora, config.pattern)
  return trained.Trained(
    base=base,
    config=config,
    params=params,
    title=f'Weights after {step} steps of aevo train',
    facts={'step': f'{step} of {result.checkpoints}'},
    base_model=front_matter.base_name(base),
    tasks=started.get('tasks', trained.PUZZLES),
    adapter=adapter,
  )


def _adapted(
  base: dict[str, Any], state: dict[str, Any], config: ModelConfig, recipe: Recipe
) -> dict[str, Any]:
  """Puts trained parameters in place of the base's, and merges adapters."""
  policy = {name: value for name, value in state.items() if name in base or is_adapter(name)}
  return decoder_params({**base, **policy}, config, recipe)


def _origin(run: pathlib.Path) -> pathlib.Path:
  """Finds the base of a run of `aevo train`."""
  path = run / run_directory.ORIGIN
  if not path.is_file():
    raise results.ResultError(
      f'{run} does not say where its base lies (no {run_directory.ORIGIN}); give it with '
      '--base=DIRECTORY'
    )
  base = pathlib.Path(json.loads(path.read_text())['base'])
  if not (base / checkpoint.CONFIG).is_file():
    raise results.ResultError(
      f'the base of {run} is no longer at {base}; give its directory with --base=DIRECTORY'
    )
  return base
