r"""Train a base checkpoint from procedural data.

  aevo pretrain --gin_file=configs/recipes/pretrain_micro.gin --out=my_base
  aevo pretrain --gin_file=configs/recipes/pretrain_micro.gin --gin_file=configs/meshes/fsdp.gin \
    --out=my_base

The data are plain puzzles, the skills under them, and a trace of the task's form. A mesh shards
over this machine's devices (docs/sharding.md). Writes model.safetensors, config.json,
tokenizer.json, tokenizer_config.json, generation_config.json and pretrain.json (command, seed, loss
curve, accuracy per family) into --out; checkpoints and metrics into --out/run. Run again after an
interrupt, it continues, on another mesh too.
"""

import contextlib
import dataclasses
import datetime
import json
import math
import os
import pathlib
import platform
import sys

from absl import flags

from aevo_jax import command, faults
from aevo_jax.bindings import readers
from aevo_jax.checkpoint import run_directory
from aevo_jax.config.configurables import LoadError, resolve
from aevo_jax.models.config import ModelConfig
from aevo_jax.runtime import tune_for_cpu
from aevo_jax.tasks.mixture import Mixture
from aevo_jax.training.recipe.pretraining import Pretrain

COMMAND = command.Command('pretrain', __doc__, fills=('out',))
_OUT = flags.DEFINE_string(
  'out', None, 'Directory of the new base.', required=True, flag_values=COMMAND.flags
)


UPKEEP = ('checkpoint_every', 'eval_items', 'max_new_tokens')  # which a continued run may change


@COMMAND
def main(arguments: list[str]) -> None:
  """Pretrains a base and writes it."""
  tune_for_cpu()  # as trials and the evaluator do
  del arguments
  out = pathlib.Path(_OUT.value)
  try:
    run_directory.refuse_foreign(out, run_directory.PRETRAIN)
    with contextlib.ExitStack() as held:
      pretrain(out, held)
  except run_directory.RunDirectoryError as error:
    sys.exit(f'pretrain: {error}')
  except OSError as error:
    sys.exit(f'pretrain: {faults.explain(error)}')
  except KeyboardInterrupt:
    sys.exit(
      f'\npretrain: interrupted; the same command continues from the last checkpoint in {out}'
    )
  print(f'base written to {out}; see {out}/pretrain.json')


def pretrain(out: pathlib.Path, held: contextlib.ExitStack) -> None:
  """Trains a base and writes it; a mistake in the settings ends the command.

  Args:
    out: directory of the base; it may hold an interrupted run.
    held: keeps the directory for this process until it closes.
  """
  # Imported here, so that a wrong flag is answered before JAX starts. The recipe registers what gin
  # may bind.
  from aevo_jax.checkpoint.resume import DamagedCheckpointError
  from aevo_jax.data import tokenizer as tokenizers
  from aevo_jax.models import scan_layers
  from aevo_jax.models.hf import checkpoint
  from aevo_jax.models.params import outline
  from aevo_jax.training.recipe import recipe as recipe_lib
  from aevo_jax.training.train_loop import NonFiniteError

  COMMAND.load_gin()
  try:
    settings = resolve('pretrain')
    config = resolve('model')
    recipe = recipe_lib.from_gin()
    placement = _placement(settings, config)
  except LoadError as error:
    sys.exit(f'configuration error: {error}')
  except ValueError as error:
    sys.exit(f'pretrain: {error}')
  tokenizer = tokenizers.build()
  if tokenizer.get_vocab_size() != config.vocab_size:
    sys.exit(
      f'pretrain: model.vocab_size = {config.vocab_size}, but the tokenizer has '
      f'{tokenizer.get_vocab_size()} entries; bind that number'
    )
  started_with = _identity(settings, config, recipe)
  run_directory.begin(out, run_directory.PRETRAIN, started_with, held)
  run_directory.record_devices(out, placement and placement.record())
  tokenizers.save(out, config.max_position_embeddings)
  tokenizer = tokenizers.load(str(out))
  print(_header(settings, config, recipe, placement), flush=True)
  try:
    final = _train(config, tokenizer, recipe, settings, placement, out / 'run')
  except (DamagedCheckpointError, NonFiniteError) as error:
    sys.exit(f'pretrain: {error}')
  if config.scan:
    final = scan_layers.unstack(final, config.pattern)
  checkpoint.save_weights(out / checkpoint.WEIGHTS, final, config)
  eos_id = tokenizer.token_to_id(tokenizers.EOS)
  pad_id = tokenizer.token_to_id(tokenizers.PAD)
  fields = checkpoint.config_to_hf(config, eos_token_id=eos_id, pad_token_id=pad_id)
  _write_json(out / checkpoint.CONFIG, fields)
  generation = {
    'do_sample': False,
    'eos_token_id': eos_id,
    'pad_token_id': pad_id,
    'max_new_tokens': settings.max_new_tokens,
  }
  _write_json(out / 'generation_config.json', generation)
  mixture = recipe.mixture(settings.size)
  facts = _facts(settings, config, recipe.optimizer)
  with placement.use_for_generation() if placement else contextlib.nullcontext():
    facts['accuracy'] = _accuracies(outline(config)[0], final, tokenizer, settings, mixture)
  facts['loss_curve'] = _loss_curve(out / 'run' / 'metrics.jsonl')
  _write_json(out / 'pretrain.json', facts)


def _sections_read() -> list[str]:
  """Lists the sections of a recipe that pretraining reads."""
  from aevo_jax.training.recipe import recipe as recipe_lib

  return [name for name in recipe_lib.NAMES if name in readers.READERS['pretrain']]


def _identity(settings: Pretrain, config: ModelConfig, recipe) -> dict:
  """Collects what makes two runs the same, as JSON values."""
  pretrain_settings = dataclasses.asdict(settings)
  for name in UPKEEP:
    del pretrain_settings[name]
  sections = {name: dataclasses.asdict(getattr(recipe, name)) for name in _sections_read()}
  return {'pretrain': pretrain_settings, 'model': _model_fields(config), 'recipe': sections}


def _placement(settings: Pretrain, config: ModelConfig):
  """Builds the placement of the loaded configuration; None where it names no mesh."""
  from aevo_jax.training import placement as placement_lib

  placement = placement_lib.from_gin(config)
  if placement:
    placement.layout.check_batch(
      settings.rows, settings.row_length, ('pretrain.rows', 'pretrain.row_length')
    )
  return placement


def _header(settings: Pretrain, config: ModelConfig, recipe, placement) -> str:
  """Words what the run is about to do."""
  from aevo_jax.training.recipe import header

  tokens = settings.steps * settings.rows * settings.row_length
  rows = {
    'recipe': header.changes([(name, getattr(recipe, name)) for name in _sections_read()]),
    'model': header.model(config),
    'method': 'pretraining, all weights',
    'devices': header.devices(placement),
    'tokens': f'{tokens:,}',
    'steps': f'{settings.steps:,} of {settings.rows} rows x {settings.row_length} tokens',
    'budget': 'pretrain.steps',
  }
  return header.text(rows)


def _first_params(config: ModelConfig, seed: int, placement) -> dict:
  """Makes the parameters of step 0, stacked where the config scans; each device its pieces."""
  import jax

  from aevo_jax.models import scan_layers
  from aevo_jax.models.decoder import create
  from aevo_jax.models.params import unbind

  def make() -> dict:
    params = unbind(create(config, seed))[1]
    return scan_layers.stack(params, config.pattern) if config.scan else params

  if placement is None:
    return make()
  shardings = placement.shardings_of_stored(jax.eval_shape(make))
  return jax.jit(make, out_shardings=shardings)()


def _train(
  config: ModelConfig, tokenizer, recipe, settings: Pretrain, placement, run: pathlib.Path
) -> dict:
  """Trains all parameters on the stream of texts; returns the final ones by name."""
  from aevo_jax.data import pipeline
  from aevo_jax.models.params import abstract, unbind
  from aevo_jax.models.scan_layers import Scanned
  from aevo_jax.training import train_loop
  from aevo_jax.training.model_setup import PolicyModel
  from aevo_jax.training.optimizer import learning_rates, transformation
  from aevo_jax.training.recipe.recipe import TrainConfig
  from aevo_jax.training.run_config import RunConfig

  source = pipeline.PretrainSource(
    seed=settings.seed,
    mixture=recipe.mixture(settings.size),
    tokenizer=tokenizer,
    skill_share=settings.skill_share,
    chat_share=settings.chat_share,
    worked_share=settings.worked_share,
    steps_share=settings.steps_share,
    given_weight=settings.given_weight,
  )

  def on_step(step: int, scalars: dict[str, float]) -> None:
    if step % 100 == 0:
      print(f'step {step} of {settings.steps}: loss {scalars["loss"]:.4f}', flush=True)

  model = abstract(config)
  structure = unbind(Scanned(model) if config.scan else model)[0]
  params = _first_params(config, settings.seed, placement)
  with placement.use() if placement else contextlib.nullcontext():
    state = train_loop.train(
      PolicyModel(structure, params, {}),
      transformation(recipe.optimizer),
      pipeline.batches(source, rows=settings.rows, row_length=settings.row_length),
      learning_rates(recipe.optimizer, settings.steps),
      run,
      TrainConfig(),
      RunConfig(checkpoint_every=settings.checkpoint_every, on_step=on_step, placement=placement),
    )
  return state.final_params()


def _facts(settings: Pretrain, config: ModelConfig, optimizer) -> dict:
  """Collects what pretrain.json says of the run, but for accuracy and loss curve."""
  return {
    'command': COMMAND.line,
    'seed': settings.seed,
    'settings': dataclasses.asdict(settings),
    'model': _model_fields(config),
    'optimizer': dataclasses.asdict(optimizer),
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'),
    'gin_files': COMMAND.flags.gin_file,
    'machine': (
      f'{platform.machine()}, {platform.system()}, Python {platform.python_version()}, '
      f'{os.cpu_count()} cores'
    ),
    'tokens': settings.steps * settings.rows * settings.row_length,
  }


def _model_fields(config: ModelConfig) -> dict:
  """Returns the model's fields as JSON values."""
  model = dataclasses.asdict(config)
  for name, value in model.items():
    if value == math.inf:
      model[name] = 'inf'  # a limit that is none; infinity is not JSON
  return model


def _loss_curve(metrics: pathlib.Path) -> list[tuple[int, float]]:
  """Reads about 200 steps and their losses from a run's metrics."""
  curve = []
  for line in metrics.read_text().splitlines():
    record = json.loads(line)
    curve.append((record['step'], record['loss']))
  return curve[:: max(1, len(curve) // 200)]


def _accuracies(structure, params, tokenizer, settings: Pretrain, mixture: Mixture) -> dict:
  """Scores dev rules by family, answered in the plain form and in the task's (chat, boxed) form."""
  from aevo_jax.data import tokenizer as tokenizers
  from aevo_jax.evaluation.scoring import Scorer, summary
  from aevo_jax.generation.sampler import Sampler
  from aevo_jax.tasks import verify
  from aevo_jax.tasks.mixture import sample_set

  items = sample_set(settings.seed, 'dev', settings.eval_items, mixture)
  scorer = Scorer(structure, tokenizer, items, max_new_tokens=settings.max_new_tokens)
  chat = summary(scorer(params), 'strict')
  sampler = Sampler(
    structure,
    eos_id=tokenizer.token_to_id(tokenizers.EOS),
    pad_id=tokenizer.token_to_id(tokenizers.PAD),
    max_new_tokens=24,
  )
  prompts = []
  for item in items:
    text = f'{tokenizers.BOS}{item.plain.removesuffix(item.answer)}'
    prompts.append(tokenizer.encode(text, add_special_tokens=False).ids)
  right: dict[str, list[bool]] = {}
  for item, ids in zip(items, sampler(params, prompts), strict=True):
    answer = tokenizer.decode(ids, skip_special_tokens=False)
    is_right = verify.strict(item.family, answer, item.answer)
    right.setdefault(item.family, []).append(is_right)
  task_form = {family: score['accuracy'] for family, score in chat['by_family'].items()}
  task_form['overall'] = chat['overall']['accuracy']
  plain = {family: round(sum(v) / len(v), 4) for family, v in sorted(right.items())}
  return {'plain': plain, 'task_form': task_form, 'items': len(items)}


def _write_json(path: pathlib.Path, value: dict) -> None:
  path.write_text(json.dumps(value, indent=2, allow_nan=False) + '\n')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
