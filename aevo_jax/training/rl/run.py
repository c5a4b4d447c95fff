"""One run of reinforcement learning, or of DPO on the policy's own pairs, from a recipe.

It runs by itself or after supervised fine-tuning (`post_train`).
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import tokenizers

from aevo_jax.config.inference import WHOLE_TRANSPORTS, Vllm
from aevo_jax.data import tokenizer as tokenizer_lib
from aevo_jax.data.corpus import Corpus
from aevo_jax.generation.engine import Engine
from aevo_jax.generation.protocol import GenerationEngine
from aevo_jax.models import weights as weights_lib
from aevo_jax.models.config import EXECUTION, ModelConfig
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import Params, outline
from aevo_jax.tasks.item import Item
from aevo_jax.training.losses.batch import AnyArray
from aevo_jax.training.model_setup import adapt_model, decoder_params
from aevo_jax.training.optimizer import learning_rates, transformation
from aevo_jax.training.recipe.recipe import Recipe
from aevo_jax.training.recipe.rl_settings import Algorithm, Reward
from aevo_jax.training.recipe.task_source import TaskSource
from aevo_jax.training.rl import critic, items
from aevo_jax.training.rl.loop import Trainer
from aevo_jax.training.rl.rollouts import rewards
from aevo_jax.training.rl.rollouts.environment import (
  Action,
  Environment,
  Puzzles,
  RewardFunction,
  Tally,
)
from aevo_jax.training.rl.rollouts.generation import Format, RolloutSource
from aevo_jax.training.rl.update import Teacher
from aevo_jax.training.run_config import RunConfig
from aevo_jax.training.train_loop import check_finite

MAX_SLOTS = 512  # rows that decode together
MAX_PROMPTS = 128  # prompts that are read together


def item_reward(settings: Reward, max_new_tokens: int) -> RewardFunction:
  """Builds the reward of an answer to an item.

  Args:
    settings: of the reward.
    max_new_tokens: that an answer could have had.

  Returns:
    (item, action) -> parts of the reward, before weights.
  """

  def reward(item: Item, action: Action) -> dict[str, float]:
    return rewards.parts(
      action, item.family, item.answer, max_new_tokens=max_new_tokens, settings=settings
    )

  return reward


def load_teacher(directory: str, tokenizer: tokenizers.Tokenizer, student: ModelConfig) -> Teacher:
  """Reads the teacher of distillation, in float32, to be run as the student is.

  Args:
    directory: of its checkpoint.
    tokenizer: of the student.
    student: its config, of which the teacher takes the fields that say how to run.

  Returns:
    The teacher.

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
  execution = {name: getattr(student, name) for name in EXECUTION}
  config = dataclasses.replace(checkpoint.read_config(path), **execution | {'scan': False})
  if config.vocab_size != student.vocab_size:
    raise ValueError(
      f'distillation.teacher = {directory!r} gives {config.vocab_size} tokens a '
      f'probability, and the student {student.vocab_size}; give a teacher with the '
      "student's vocab_size"
    )
  return Teacher(outline(config)[0], weights_lib.load(path, config))


def _token_id(tokenizer: tokenizers.Tokenizer, token: str) -> int:
  number = tokenizer.token_to_id(token)
  if number is None:
    raise ValueError(f'the tokenizer has no token {token!r}, which its chat format uses')
  return number


def _format(tokenizer: tokenizers.Tokenizer, corpus: Corpus) -> Format:
  """Returns how episodes become tokens in the corpus' chat format."""
  chat = corpus.chat

  def prompt(text: str, first: bool) -> Sequence[int]:
    turn = chat.prompt(text) if first else chat.following(text)
    return tokenizer.encode(turn, add_special_tokens=False).ids

  def decode(ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False)

  def name_of(token: int) -> str:
    return str(tokenizer.id_to_token(token))

  return Format(prompt, decode, (_token_id(tokenizer, chat.eos), *chat.stops), name_of)


def _environment(recipe: Recipe, algorithm: Algorithm, tasks: TaskSource) -> Environment:
  if algorithm.task.name == 'tally':
    return Tally(algorithm.task.turns, algorithm.task.decisions, tasks.seed)
  return Puzzles(
    items.stream(recipe.mixture(tasks.size), tasks.seed, tasks.corpus),
    item_reward(algorithm.reward, algorithm.rollout.max_new_tokens),
  )


def _slots(algorithm: Algorithm, environment: Environment) -> int:
  """Returns how many rows the engine decodes together."""
  slots = MAX_PROMPTS
  if algorithm.rollout.group_size > 1 and environment.max_turns == 1:
    slots = MAX_SLOTS
  return min(slots, algorithm.rollout.prompts * algorithm.rollout.group_size)


def trainer(
  config: ModelConfig,
  recipe: Recipe,
  base: Mapping[str, AnyArray],
  tokenizer: tokenizers.Tokenizer,
  tasks: TaskSource,
  *,
  directory: pathlib.Path,
  vllm: Vllm | None = None,
) -> Trainer:
  """Prepares a run of `recipe.algorithm()`.

  Args:
    config: of the base.
    recipe: what to train; its method is not 'sft'.
    base: the base checkpoint's arrays by name.
    tokenizer: of the base.
    tasks: puzzles of the recipe's mixture, or tasks of one's own.
    directory: of checkpoints, metrics and rollouts.
    vllm: how a server is started where rollout.engine = 'vllm'.

  Returns:
    The run at its first step, or at its last checkpoint.

  Raises:
    ValueError: parts of the recipe cannot go together, or the teacher does not fit.
    NoVllmError: no vLLM is installed.
  """
  algorithm = recipe.algorithm()
  assert algorithm is not None
  model = adapt_model(config, recipe.adaptation, recipe.lora, base, tasks.seed)
  form = _format(tokenizer, tasks.corpus)
  environment = _environment(recipe, algorithm, tasks)
  pad = _token_id(tokenizer, tasks.corpus.chat.pad)
  dtype = None
  if algorithm.rollout.engine == 'vllm':
    engine = _served(config, recipe, tokenizer, form.eos, pad, directory, vllm)
    dtype = vllm.dtype if vllm is not None else None
  else:
    engine = Engine(
      model.structure,
      eos_ids=form.eos,
      pad_id=pad,
      decode_text=form.text,
      slots=_slots(algorithm, environment),
    )
  teacher = None
  if algorithm.distillation:
    teacher = load_teacher(algorithm.distillation.teacher, tokenizer, config)
  return Trainer(
    model,
    transformation(recipe.second_optimizer()),
    algorithm,
    RolloutSource(engine, environment, form, dtype),
    seed=tasks.seed,
    directory=directory,
    train=recipe.train,
    teacher=teacher,
  )


def train(
  config: ModelConfig, recipe: Recipe, trainer: Trainer, steps: int, run: RunConfig
) -> Params:
  """Trains to the last step.

  Args:
    config: of the base.
    recipe: the one that the trainer was made with.
    trainer: is closed at the end.
    steps: of the run in all.
    run: checkpoints and hooks.

  Returns:
    Every parameter of the decoder, adapters merged.

  Raises:
    StoppedError: a gate or rule stopped the run.
    NonFiniteError: the last weights are not finite.
  """
  with trainer:
    state = trainer.train(learning_rates(recipe.second_optimizer(), steps), run)
  policy = critic.split(state.final_params()).policy
  final = decoder_params({**trainer.frozen, **policy}, config, recipe)
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
  """Returns an engine at a vLLM server, which is given adapters merged."""
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
  # Here, since httpx2 is an extra.
  from aevo_jax.generation.vllm.engine import VllmEngine  # noqa: PLC0415 see above

  unstacked = dataclasses.replace(config, scan=False)

  def write(model: pathlib.Path) -> None:
    (model / checkpoint.CONFIG).write_text(
      json.dumps(checkpoint.config_to_hf(unstacked, eos_token_id=eos[0], pad_token_id=pad))
    )
    tokenizer.save(str(model / 'tokenizer.json'))
    (model / 'tokenizer_config.json').write_text(
      json.dumps({'tokenizer_class': 'PreTrainedTokenizerFast'})
    )

  return VllmEngine(
    settings,
    model=write,
    structure=outline(unstacked)[0],
    config=unstacked,
    eos_ids=eos,
    log=directory / 'vllm.log',
    prepare=lambda params: decoder_params(params, config, recipe),
  )
