"""Train a base checkpoint from procedural data: plain puzzles, the skills under them, a trace of
the task's form.

  aevo pretrain --gin_file=configs/recipes/pretrain_micro.gin --out=my_base

Writes model.safetensors, config.json, tokenizer.json, tokenizer_config.json, generation_config.json
and pretrain.json (command, seed, loss curve, accuracy per family) into --out; checkpoints and
metrics into --out/run. Run again after an interrupt, it continues.
"""

import dataclasses
import datetime
import json
import math
import os
import pathlib
import platform
import sys

from absl import app, flags, logging

from aevo_jax import command
from aevo_jax.config.configurables import LoadError, bound, configurable, resolve
from aevo_jax.models.config import ModelConfig
from aevo_jax.runtime import tune_for_cpu
from aevo_jax.tasks.mixture import Mixture
from aevo_jax.training.recipe import recipe as recipe_lib

COMMAND = command.Command('pretrain', __doc__)
_OUT = flags.DEFINE_string(
  'out', None, 'Directory of the new base.', required=True, flag_values=COMMAND.flags
)


READ = (
  'optimizer',
  'family_weight',
  'rare_share',
  'difficulty',
  'answer_shown',
  'answer_withheld',
)  # of a recipe


@configurable('pretrain')
@dataclasses.dataclass(frozen=True)
class Pretrain:
  """What a base is trained on, and for how long.

  Attributes:
    steps: optimizer steps of `rows` packed rows of `row_length` tokens.
    skill_share, chat_share: of the texts; the rest are plain puzzles, a worked_share of them with
      their solution, a steps_share of these with its intermediate results.
    given_weight: loss weight of the inputs of examples, which cannot be predicted.
    max_new_tokens: longest answer, when it is scored and in generation_config.json.
    checkpoint_every: steps between checkpoints. eval_items: dev items in the accuracies of
      pretrain.json.
  """

  steps: int
  seed: int = 0
  size: str = 'micro'
  rows: int = 32
  row_length: int = 128
  skill_share: float = 0.15
  chat_share: float = 0.005
  worked_share: float = 0.5
  steps_share: float = 0.25
  given_weight: float = 0.1
  max_new_tokens: int = 56
  checkpoint_every: int = 1000
  eval_items: int = 1200


@COMMAND
def main(arguments: list[str]) -> None:
  tune_for_cpu()  # as trials and the evaluator do
  if arguments:
    raise app.UsageError(f'unexpected arguments: {" ".join(arguments)}')
  COMMAND.load_gin()
  # Imported here, so that a wrong flag is answered before JAX starts.
  from aevo_jax.data import pipeline
  from aevo_jax.data import tokenizer as tokenizers
  from aevo_jax.models.decoder import create
  from aevo_jax.models.hf import checkpoint
  from aevo_jax.models.params import unbind
  from aevo_jax.training import train_loop
  from aevo_jax.training.model_setup import PolicyModel
  from aevo_jax.training.optimizer import learning_rates, transformation
  from aevo_jax.training.run_config import RunConfig

  try:
    settings, config, recipe = resolve('pretrain'), _model(), recipe_lib.from_gin()
    for section in recipe_lib.NAMES:
      if section not in READ and (fields := bound(section)):
        raise LoadError(
          f'{section}.{fields[0]} is bound, and pretraining reads nothing of {section}; '
          f'leave it out (of a recipe it reads {", ".join(READ)})'
        )
  except LoadError as error:
    sys.exit(f'configuration error: {error}')
  optimizer, mixture = recipe.optimizer, recipe.mixture(settings.size)
  out = pathlib.Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  tokenizers.save(out, config.max_position_embeddings)
  tokenizer = tokenizers.load(str(out))
  if tokenizer.get_vocab_size() != config.vocab_size:
    raise app.UsageError(
      f'model.vocab_size = {config.vocab_size}, but the tokenizer has '
      f'{tokenizer.get_vocab_size()} entries; bind that number'
    )
  structure, params = unbind(create(config, settings.seed))
  logging.info('%d parameters', sum(p.size for p in params.values()))
  source = pipeline.PretrainSource(
    settings.seed,
    mixture,
    tokenizer,
    settings.skill_share,
    settings.chat_share,
    settings.worked_share,
    settings.steps_share,
    settings.given_weight,
  )

  def on_step(step, scalars):
    if step % 100 == 0:
      logging.info('step %d of %d: loss %.4f', step, settings.steps, scalars['loss'])

  state = train_loop.train(
    PolicyModel(structure, params, {}),
    transformation(optimizer),
    pipeline.batches(source, rows=settings.rows, row_length=settings.row_length),
    learning_rates(optimizer, settings.steps),
    out / 'run',
    recipe_lib.TrainConfig(),
    RunConfig(checkpoint_every=settings.checkpoint_every, on_step=on_step),
  )

  checkpoint.save_weights(out / checkpoint.WEIGHTS, state.final_params(), config)
  eos, pad = tokenizer.token_to_id(tokenizers.EOS), tokenizer.token_to_id(tokenizers.PAD)
  _write_json(
    out / checkpoint.CONFIG,
    checkpoint.config_to_hf(config, eos_token_id=eos, pad_token_id=pad),
  )
  _write_json(
    out / 'generation_config.json',
    {
      'do_sample': False,
      'eos_token_id': eos,
      'pad_token_id': pad,
      'max_new_tokens': settings.max_new_tokens,
    },
  )
  losses = [
    (r['step'], r['loss'])
    for r in map(json.loads, (out / 'run' / 'metrics.jsonl').read_text().splitlines())
  ]
  _write_json(
    out / 'pretrain.json',
    {
      'command': COMMAND.line,
      'seed': settings.seed,
      'settings': dataclasses.asdict(settings),
      # Infinity, a limit that is none, is not JSON.
      'model': {
        name: 'inf' if value == math.inf else value
        for name, value in dataclasses.asdict(config).items()
      },
      'optimizer': dataclasses.asdict(optimizer),
      'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'),
      'gin_files': COMMAND.flags.gin_file,
      'machine': (
        f'{platform.machine()}, {platform.system()}, Python {platform.python_version()}, '
        f'{os.cpu_count()} cores'
      ),
      'tokens': settings.steps * settings.rows * settings.row_length,
      'accuracy': _accuracies(structure, state.final_params(), tokenizer, settings, mixture),
      'loss_curve': losses[:: max(1, len(losses) // 200)],
    },
  )
  print(f'base written to {out}; see {out}/pretrain.json')


def _model() -> ModelConfig:
  return resolve('model')


def _accuracies(structure, params, tokenizer, settings: Pretrain, mixture: Mixture) -> dict:
  """Accuracy per family on dev rules, answering in the plain form and in the task's (chat, boxed)
  form.
  """
  from aevo_jax.data import tokenizer as tokenizers
  from aevo_jax.evaluation.scoring import Scorer, summary
  from aevo_jax.generation.sampler import Sampler
  from aevo_jax.tasks import verify
  from aevo_jax.tasks.mixture import sample_set

  items = sample_set(settings.seed, 'dev', settings.eval_items, mixture)
  chat = summary(
    Scorer(structure, tokenizer, items, max_new_tokens=settings.max_new_tokens)(params), 'strict'
  )
  sampler = Sampler(
    structure,
    eos_id=tokenizer.token_to_id(tokenizers.EOS),
    pad_id=tokenizer.token_to_id(tokenizers.PAD),
    max_new_tokens=24,
  )
  prompts = [
    tokenizer.encode(
      f'{tokenizers.BOS}{i.plain.removesuffix(i.answer)}', add_special_tokens=False
    ).ids
    for i in items
  ]
  plain = {}
  for item, ids in zip(items, sampler(params, prompts)):
    plain.setdefault(item.family, []).append(
      verify.strict(item.family, tokenizer.decode(ids, skip_special_tokens=False), item.answer)
    )
  return {
    'plain': {name: round(sum(v) / len(v), 4) for name, v in sorted(plain.items())},
    'task_form': {name: v['accuracy'] for name, v in chat['by_family'].items()}
    | {'overall': chat['overall']['accuracy']},
    'items': len(items),
  }


def _write_json(path: pathlib.Path, value: dict) -> None:
  path.write_text(json.dumps(value, indent=2, allow_nan=False) + '\n')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
