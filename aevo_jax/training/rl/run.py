"""One run of reinforcement learning, or of DPO on the policy's own pairs, from a recipe: by itself
or after supervised fine-tuning (`post_train`).
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
import tokenizers

from aevo_jax.config.configurables import LoadError, bound
from aevo_jax.config.inference import WHOLE_TRANSPORTS, Vllm
from aevo_jax.data import tokenizer as tokenizer_lib
from aevo_jax.generation.engine import Engine
from aevo_jax.generation.protocol import GenerationEngine
from aevo_jax.models import weights as weights_lib
from aevo_jax.models.config import EXECUTION, ModelConfig
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import Params, Structure, outline
from aevo_jax.tasks.item import Item
from aevo_jax.training.model_setup import adapt_model, decoder_params
from aevo_jax.training.optimizer import learning_rates, transformation
from aevo_jax.training.recipe.recipe import METHODS, Recipe
from aevo_jax.training.recipe.task_source import TaskSource
from aevo_jax.training.rl import items, rewards, update
from aevo_jax.training.rl.environment import Action, Puzzles, Tally
from aevo_jax.training.rl.loop import Trainer
from aevo_jax.training.rl.rollouts import Format
from aevo_jax.training.rl.settings import Reward
from aevo_jax.training.run_config import RunConfig
from aevo_jax.training.train_loop import check_finite

MAX_SLOTS, MAX_PROMPTS = 512, 128  # that decode together, and that are read together
_SECTIONS = (
  'policy_gradient',
  'advantage',
  'rollout',
  'reward',
  'critic',
  'rl',
  'gates',
  'environment',
)
_READ = {
  'sft': {'loss', 'data', 'solution_style'},
  'rl': set(_SECTIONS),
  'dpo': {'policy_gradient', 'rollout', 'reward', 'rl', 'gates', 'environment', 'dpo'},
  'distill': {'policy_gradient', 'rollout', 'rl', 'gates', 'environment', 'distillation'},
}


def refuse_unread_sections(method: str) -> None:
  """Refuses bindings of what only another method reads.

  Raises:
    LoadError: naming the binding.
  """
  read = {name: set().union(*(_READ[part] for part in name.split('_then_'))) for name in METHODS}
  for section in sorted(set().union(*_READ.values()) - read[method]):
    if fields := bound(section):
      raise LoadError(
        (
          f'{section}.{fields[0]} is bound, and nothing reads {section} while method.name = '
          f'{method!r}; leave it out, or bind method.name to '
        )
        + ' or '.join(repr(m) for m in METHODS if section in read[m])
      )


def item_reward(
  settings: Reward, max_new_tokens: int
) -> Callable[[Item, Action], dict[str, float]]:
  """Parts of the reward of an answer to an item."""
  return lambda item, action: rewards.parts(
    action.text,
    item.family,
    item.answer,
    tokens=action.tokens,
    max_new_tokens=max_new_tokens,
    ended=action.ended,
    settings=settings,
  )


def load_teacher(
  directory: str, tokenizer: tokenizers.Tokenizer, student: ModelConfig
) -> tuple[Structure, Params]:
  """The teacher of distillation, in float32, run as the student is.

  Raises:
    ValueError: there is none, or its tokens are not the student's.
  """
  path = pathlib.Path(directory)
  if not (path / checkpoint.CONFIG).is_file():
    raise ValueError(
      f'distillation.teacher = {directory!r}: no checkpoint is there; give a directory '
      'with config.json, tokenizer and weights'
    )
  try:
    vocabulary = tokenizer_lib.load(directory).get_vocab()
  except Exception as error:  # the library raises nothing narrower
    raise ValueError(
      f'distillation.teacher = {directory!r}: its tokenizer cannot be read ({error})'
    ) from error
  if vocabulary != tokenizer.get_vocab():
    raise ValueError(
      f'distillation.teacher = {directory!r} has another vocabulary than the student, so '
      "its distributions are of other tokens; give a teacher with the student's tokenizer"
    )
  config = dataclasses.replace(
    checkpoint.read_config(path),
    **{name: getattr(student, name) for name in EXECUTION} | {'scan': False},
  )
  if config.vocab_size != student.vocab_size:
    raise ValueError(
      f'distillation.teacher = {directory!r} gives {config.vocab_size} tokens a '
      f'probability, and the student {student.vocab_size}; give a teacher with the '
      "student's vocab_size"
    )
  return outline(config)[0], weights_lib.load(path, config)


def trainer(
  config: ModelConfig,
  recipe: Recipe,
  base: Mapping[str, np.ndarray],
  tokenizer: tokenizers.Tokenizer,
  tasks: TaskSource,
  *,
  directory: pathlib.Path,
  vllm: Vllm | None = None,
) -> Trainer:
  """A run of `recipe.algorithm()` on the puzzles of the recipe's mixture, or on the tasks
  of one's own. vllm: how a server is had where rollout.engine = 'vllm'.

  Raises:
    ValueError: there is no such way. NoVllmError: no vLLM is installed.
  """
  algorithm = recipe.algorithm()
  seed, corpus = tasks.seed, tasks.corpus
  model = adapt_model(config, recipe.adaptation, recipe.lora, base, seed)
  chat = corpus.chat
  eos = (tokenizer.token_to_id(chat.eos), *chat.stops)
  encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
  decode = lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False)
  if algorithm.task.name == 'tally':
    environment = Tally(algorithm.task.turns, algorithm.task.decisions, seed)
  else:
    environment = Puzzles(
      items.stream(recipe.mixture(tasks.size), seed, corpus),
      item_reward(algorithm.reward, algorithm.rollout.max_new_tokens),
    )
  form = Format(
    lambda text, first: encode(chat.prompt(text) if first else chat.following(text)), decode, eos
  )
  if algorithm.rollout.engine == 'vllm':
    engine = _served(
      config, recipe, tokenizer, eos, tokenizer.token_to_id(chat.pad), directory, vllm
    )
  else:
    engine = Engine(
      model.structure,
      eos_ids=eos,
      pad_id=tokenizer.token_to_id(chat.pad),
      decode_text=decode,
      slots=min(
        MAX_SLOTS
        if algorithm.rollout.group_size > 1 and environment.max_turns == 1
        else MAX_PROMPTS,
        algorithm.rollout.prompts * algorithm.rollout.group_size,
      ),
    )
  return Trainer(
    model.structure,
    model.params,
    model.frozen,
    transformation(recipe.second_optimizer()),
    engine=engine,
    environment=environment,
    form=form,
    algorithm=algorithm,
    seed=seed,
    directory=directory,
    ema_decay=recipe.train.ema_decay,
    logits_chunk=recipe.train.logits_chunk,
    teacher=load_teacher(algorithm.distillation.teacher, tokenizer, config)
    if algorithm.distillation
    else None,
    name_of=tokenizer.id_to_token,
  )


def train(
  config: ModelConfig,
  recipe: Recipe,
  made: Trainer,
  steps: int,
  run: RunConfig,
) -> Params:
  """Trains for `steps` steps in all and returns every parameter of the decoder, adapters merged.

  Raises:
    StoppedError: a gate or rule stopped the run. NonFiniteError: the last weights are not finite.
  """
  with made:
    state = made.train(
      learning_rates(recipe.second_optimizer(), steps),
      checkpoint_every=run.checkpoint_every,
      on_step=run.on_step,
      upkeep=run.control,
      stop=run.stop,
    )
  params = {**made.frozen, **update.split(state.final_params())[0]}
  final = decoder_params(params, config, recipe)
  check_finite(final)
  return final


def _served(
  config: ModelConfig,
  recipe: Recipe,
  tokenizer: tokenizers.Tokenizer,
  eos: tuple[int, ...],
  pad: int,
  directory: pathlib.Path,
  settings: Vllm | None,
) -> GenerationEngine:
  """An engine at a vLLM server, which is given adapters merged."""
  if settings is None:
    raise ValueError(
      "rollout.engine = 'vllm' is for `aevo train`: a campaign's workers are confined "
      "and start no server; leave it at 'jax'"
    )
  if settings.carrier not in WHOLE_TRANSPORTS:
    raise ValueError(
      f'vllm.carrier = {settings.carrier!r} does not carry weights as they are trained; '
      f'bind one of {", ".join(WHOLE_TRANSPORTS)}'
    )
  from aevo_jax.generation.vllm.engine import VllmEngine  # here, since httpx2 is an extra

  plain = dataclasses.replace(config, scan=False)

  def write(model: pathlib.Path) -> None:
    (model / checkpoint.CONFIG).write_text(
      json.dumps(checkpoint.config_to_hf(plain, eos_token_id=eos[0], pad_token_id=pad))
    )
    tokenizer.save(str(model / 'tokenizer.json'))
    (model / 'tokenizer_config.json').write_text(
      json.dumps({'tokenizer_class': 'PreTrainedTokenizerFast'})
    )

  return VllmEngine(
    settings,
    model=write,
    structure=outline(plain)[0],
    config=plain,
    eos_ids=eos,
    log=directory / 'vllm.log',
    prepare=lambda params: decoder_params(params, config, recipe),
  )
