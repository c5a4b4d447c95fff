"""One run of reinforcement learning on a base, from a recipe: what `aevo train` does where method.name is 'rl' or 'dpo'."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
import tokenizers

from aevo_jax.config.configurables import LoadError, bound, configurable, resolve
from aevo_jax.data.corpus import Corpus
from aevo_jax.generation.engine import Engine
from aevo_jax.models import lora, scan_layers
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import Params
from aevo_jax.tasks import own_data
from aevo_jax.tasks.item import Item
from aevo_jax.tasks.mixture import item_at
from aevo_jax.training import fingerprint
from aevo_jax.training.optimizer import learning_rates, transformation
from aevo_jax.training.recipe import Recipe
from aevo_jax.training.recipe_checks import choice
from aevo_jax.training.rl import rewards, update
from aevo_jax.training.rl.environment import Action, Puzzles
from aevo_jax.training.rl.loop import Trainer
from aevo_jax.training.rl.rollouts import Format
from aevo_jax.training.rl.settings import Algorithm, Reward
from aevo_jax.training.train_loop import check_finite
from aevo_jax.training.upkeep import Upkeep

METHODS = ('sft', 'rl', 'dpo')
FIRST_ITEM = 2**32  # of the stream of items: far from those that supervised training draws
MAX_SLOTS = 128


@configurable('method')
@dataclasses.dataclass(frozen=True)
class Method:
  """name: 'sft', supervised fine-tuning on worked solutions, 'rl', reinforcement learning on the same tasks (see `policy_gradient`,
  `advantage`, `rollout`, `reward`, `rl`), or 'dpo', direct preference optimisation on pairs of the policy's own completions (see `dpo`, `rollout`, `reward`)."""

  name: str = 'sft'

  def __post_init__(self):
    choice('method.name', self.name, METHODS)


_SECTIONS = {'policy_gradient': 'loss', 'advantage': 'advantage', 'rollout': 'rollout', 'reward': 'reward', 'critic': 'critic', 'rl': 'rl', 'gates': 'gates'}
_READ = {'sft': {'loss', 'data', 'solution_style'}, 'rl': set(_SECTIONS), 'dpo': {'policy_gradient', 'rollout', 'reward', 'rl', 'gates', 'dpo'}}


def refuse_unread_sections(method: str) -> None:
  """Refuses bindings of what only another method reads.

  Raises:
    LoadError: naming the binding.
  """
  for section in sorted(set().union(*_READ.values()) - _READ[method]):
    if fields := bound(section):
      raise LoadError(f'{section}.{fields[0]} is bound, and nothing reads {section} while method.name = {method!r}; leave it out, or bind method.name to '
                      + ' or '.join(repr(m) for m in METHODS if section in _READ[m]))


def algorithm_from_gin() -> Algorithm:
  """The algorithm of the loaded gin configuration; raises LoadError or ValueError for what cannot be combined."""
  preference = resolve('dpo') if resolve('method').name == 'dpo' else None
  return Algorithm(**{field: resolve(section) for section, field in _SECTIONS.items()}, preference=preference)


def item_reward(settings: Reward, max_new_tokens: int) -> Callable[[Item, Action], dict[str, float]]:
  """Parts of the reward of an answer to an item."""
  return lambda item, action: rewards.parts(action.text, item.family, item.answer, tokens=action.tokens, max_new_tokens=max_new_tokens, ended=action.ended, settings=settings)


def trainer(config: ModelConfig, recipe: Recipe, algorithm: Algorithm, base: Mapping[str, np.ndarray], tokenizer: tokenizers.Tokenizer, *, size: str, seed: int,
            directory: pathlib.Path, corpus: Corpus = Corpus()) -> Trainer:
  """A run on the puzzles of the recipe's mixture, or on the tasks that `corpus` holds, with the in-process engine."""
  structure, params, frozen = fingerprint.adapted(config, recipe.adaptation, recipe.lora, base, seed)
  chat, mixture = corpus.chat, recipe.mixture(size)
  eos = (tokenizer.token_to_id(chat.eos), *chat.stops)
  encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
  decode = lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False)
  item = (lambda i: own_data.item_at(corpus.items, seed, FIRST_ITEM + i)) if corpus.items else (lambda i: item_at(seed, 'train', FIRST_ITEM + i, mixture))
  engine = Engine(structure, eos_ids=eos, pad_id=tokenizer.token_to_id(chat.pad), decode_text=decode, slots=min(MAX_SLOTS, algorithm.rollout.prompts * algorithm.rollout.group_size))
  return Trainer(structure, params, frozen, transformation(recipe.optimizer), engine=engine,
                 environment=Puzzles(item, item_reward(algorithm.reward, algorithm.rollout.max_new_tokens)), form=Format(lambda text, first: encode(chat.prompt(text)), decode, eos),
                 algorithm=algorithm, seed=seed, directory=directory, ema_decay=recipe.train.ema_decay, logits_chunk=recipe.train.logits_chunk, name_of=tokenizer.id_to_token)


def train(config: ModelConfig, recipe: Recipe, made: Trainer, *, steps: int, checkpoint_every: int = 0, on_step: Callable[[int, dict[str, float]], None] | None = None,
          upkeep: Upkeep = Upkeep(), stop: Callable[[], bool] = lambda: False) -> Params:
  """Trains for `steps` steps in all and returns every parameter of the decoder, adapters merged.

  Raises:
    StoppedError: a gate or rule stopped the run. NonFiniteError: the last weights are not finite.
  """
  state = made.train(learning_rates(recipe.optimizer, steps), checkpoint_every=checkpoint_every, on_step=on_step, upkeep=upkeep, stop=stop)
  final = {**made.frozen, **update.split(state.final_params())[0]}
  if recipe.adaptation.method == 'lora':
    final = lora.merge(final, recipe.lora.alpha / recipe.lora.rank)
  if config.scan:
    final = scan_layers.unstack(final, config.pattern)
  check_finite(final)
  return final
