"""What a recipe does, as digests: two recipes with equal fingerprints train the same thing.

Reading a value into a dataclass proves nothing about its use, so the fingerprint is taken from what
acts: the items, the learning rate at every step, the maps that an adapter is on, the layout of the
training state, the jaxprs of the training step's two halves, update and gradient, and what
reinforcement learning makes of specimens. State and jaxprs are those of a small stand-in with the
model's kinds of blocks, since no recipe value depends on its width; everything else is the real
thing.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers
from jax.interpreters import partial_eval

from aevo_jax.data import pipeline
from aevo_jax.data.corpus import Corpus
from aevo_jax.models import lora, scan_layers
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import (
  Params,
  Structure,
  abstract,
  is_adapter,
  is_router_bias,
  resident_dtype,
  unbind,
)
from aevo_jax.tasks.mixture import Mixture
from aevo_jax.training import optimizer as optimizer_lib
from aevo_jax.training.recipe.recipe import Adaptation, Lora, Optimizer, Recipe
from aevo_jax.training.recipe.token_budget import Plan
from aevo_jax.training.rl import items as rl_items
from aevo_jax.training.rl import synthetic_rollouts
from aevo_jax.training.rl.settings import Algorithm, Gates
from aevo_jax.training.train_state import TrainState
from aevo_jax.training.train_step import make_loss, make_update

ITEMS_COMPARED = 256


def adapted(
  config: ModelConfig,
  adaptation: Adaptation,
  adapter: Lora,
  base: Mapping[str, np.ndarray] | None,
  seed: int,
) -> tuple[Structure, Params, Params]:
  """The model that is trained.

  Args:
    adapter: its shape, where `adaptation` asks for one.
    base: the base checkpoint's arrays by name, stacked or not where the config scans; None leaves
      shapes in their place.
    seed: of the adapters.

  Returns:
    structure, trained parameters, frozen parameters. Under full fine-tuning only routers' biases
    are frozen, which no gradient moves but weight decay would.
  """
  model = abstract(config)
  if adaptation.method == 'lora':
    lora.attach(model, rank=adapter.rank, alpha=adapter.alpha, targets=adapter.targets, seed=seed)
  structure, params = unbind(scan_layers.Scanned(model) if config.scan else model)
  by_adapter = adaptation.method == 'lora'
  if base is not None:
    base = (
      scan_layers.stack(base, config.pattern)
      if config.scan and not any(map(scan_layers.is_stacked, base))
      else base
    )
    params |= {
      name: jnp.asarray(value, resident_dtype(name, value.dtype, frozen=by_adapter))
      for name, value in base.items()
    }
  trained = is_adapter if by_adapter else lambda name: not is_router_bias(name)
  return (
    structure,
    {k: v for k, v in params.items() if trained(k)},
    {k: v for k, v in params.items() if not trained(k)},
  )


def source_inputs(
  recipe: Recipe,
  tokenizer: tokenizers.Tokenizer,
  *,
  size: str,
  seed: int,
  corpus: Corpus = Corpus(),
) -> tuple:
  """What a recipe's item stream is made from, in the order of `pipeline.SftSource`."""
  return (
    seed,
    recipe.mixture(size),
    tokenizer,
    recipe.solution_style,
    recipe.loss.reasoning_weight,
    recipe.data.plain_share,
    recipe.data.demonstrations,
    corpus,
  )


def components(
  recipe: Recipe,
  tokenizer: tokenizers.Tokenizer,
  *,
  size: str,
  seed: int,
  plan: Plan,
  corpus: Corpus = Corpus(),
  config: ModelConfig = ModelConfig(),
) -> dict[str, functools.partial[str]]:
  """Digests by name, cheapest first, each computed when called. Where two recipes give a component
  equal arguments, its digests are equal too.

  `config` is the model's; the micro model's, if not given.
  """
  items = source_inputs(recipe, tokenizer, size=size, seed=seed, corpus=corpus)
  train, algorithm, supervised = recipe.train, recipe.algorithm(), recipe.method.supervised
  tokens = plan.sft_steps * train.batch_rows * train.row_length
  found = {
    'rows': functools.partial(
      _digest,
      str(
        (
          plan,
          (train.batch_rows, train.row_length, train.packing, train.packing_window)
          if supervised
          else (),
        )
      ),
    )
  }
  if supervised:
    found |= {
      'schedule': functools.partial(_schedule_digest, recipe.optimizer, plan.sft_steps),
      'batches': functools.partial(_items_digest, items, 0),
    }
  if algorithm:
    found |= {
      'schedule_of_the_second': functools.partial(
        _schedule_digest, recipe.second_optimizer(), plan.rl_steps
      ),
      'prompts': functools.partial(_prompts_digest, recipe.mixture(size), seed, corpus),
      'algorithm': functools.partial(
        _algorithm_digest, dataclasses.replace(algorithm, gates=Gates())
      ),
    }
  found |= {
    'state': functools.partial(
      _state_digest, config, recipe.adaptation, recipe.lora, recipe.optimizer, train.ema_decay
    ),
    'update': functools.partial(
      _update_digest, config, recipe.adaptation, recipe.lora, recipe.optimizer, train.ema_decay
    ),
  }
  if supervised:
    found |= {
      'gradient': functools.partial(
        _gradient_digest, config, recipe.adaptation, recipe.lora, recipe.loss.label_smoothing
      ),
      # A change to a rare family may leave the first items alone and still act on those that
      # follow.
      'later_batches': functools.partial(_items_digest, items, tokens),
    }
  return found


def _schedule_digest(optimizer: Optimizer, steps: int) -> str:
  return _digest(optimizer_lib.learning_rates(optimizer, steps).tobytes())


def _items_digest(items: tuple, tokens: int) -> str:
  """Of the first `tokens` tokens of a stream, but of `ITEMS_COMPARED` items at least."""
  stream, state, index = pipeline.SftSource(*items), hashlib.sha256(), 0
  while index < ITEMS_COMPARED or tokens > 0:
    sequence = stream[index]
    state.update(sequence.tokens.tobytes() + sequence.weights.tobytes())
    index, tokens = index + 1, tokens - len(sequence.tokens)
  return state.hexdigest()


def _prompts_digest(mixture: Mixture, seed: int, corpus: Corpus) -> str:
  item = rl_items.stream(mixture, seed, corpus)
  return _digest(str([(item(i).question, item(i).answer) for i in range(rl_items.COMPARED)]))


def _algorithm_digest(algorithm: Algorithm) -> str:
  """Of what reinforcement learning does with rollouts: how many it asks for and how often it trains
  on them, what it makes of specimens on the host, and its loss.
  """
  return _digest(
    str(
      (algorithm.rollout, algorithm.rl.epochs, algorithm.rl.minibatches, algorithm.loss.temperature)
    )
    + synthetic_rollouts.digest(algorithm)
  )


def _small(config: ModelConfig) -> ModelConfig:
  """The model with one block of each kind at least, a beginning of its pattern, and small widths."""
  blocks = max(map(config.pattern.index, set(config.pattern))) + 1
  small = {
    'vocab_size': 8,
    'hidden_size': 64,
    'num_attention_heads': 2,
    'num_key_value_heads': 1,
    'head_dim': 32,
    'intermediate_size': 64,
    'mamba_num_heads': 2,
    'mamba_head_dim': 16,
    'n_groups': 1,
    'ssm_state_size': 8,
    'chunk_size': 8,
    'n_routed_experts': 4,
    'num_experts_per_tok': 2,
    'moe_intermediate_size': 16,
    'moe_shared_expert_intermediate_size': 16 if config.moe_shared_expert_intermediate_size else 0,
    'moe_latent_size': 16 if config.moe_latent_size else 0,
    'n_group': 1,
    'topk_group': 1,
  }
  return dataclasses.replace(config, pattern=config.pattern[:blocks], **small)


@functools.cache
def _adapted_maps(config: ModelConfig, targets: str) -> tuple[str, ...]:
  return tuple(lora.targeted(abstract(config), targets))


def _in_small(config: ModelConfig, targets: str) -> str:
  """`targets` for the small model: the maps, by kind of block, that they mean in the model itself."""
  small = _small(config)

  def by_kind(name: str, pattern: str) -> tuple[str, str]:
    first, _, rest = name.partition('.')
    number, _, inner = rest.partition('.')
    return (pattern[int(number)], inner) if first == 'layers' else ('', name)

  meant = {by_kind(name, config.pattern) for name in _adapted_maps(config, targets)}
  chosen = [
    lora.hf_module(name, small)
    for name in lora.map_names(abstract(small))
    if by_kind(name, small.pattern) in meant
  ]
  return f'^({"|".join(map(re.escape, chosen))})$'


def _stand_in(
  config: ModelConfig, adaptation: Adaptation, adapter: Lora
) -> tuple[Structure, Params, Params]:
  """structure, trained and frozen parameters (shapes, no arrays) of the small stand-in."""
  if adaptation.method == 'lora':
    adapter = dataclasses.replace(adapter, targets=_in_small(config, adapter.targets))
  structure, params, frozen = adapted(_small(config), adaptation, adapter, None, seed=0)
  return (
    structure,
    {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in params.items()},
    frozen,
  )


def _state(
  params: Params, optimizer: Optimizer, ema_decay: float
) -> tuple[optax.GradientTransformation, TrainState]:
  transformation = optimizer_lib.transformation(optimizer, baked=True)
  return transformation, jax.eval_shape(
    lambda p: TrainState.create(p, transformation, ema_decay), params
  )


def _state_digest(
  config: ModelConfig, adaptation: Adaptation, adapter: Lora, optimizer: Optimizer, ema_decay: float
) -> str:
  _, params, _ = _stand_in(config, adaptation, adapter)
  maps = _adapted_maps(config, adapter.targets) if adaptation.method == 'lora' else ()
  return _digest(
    str((maps, jax.tree_util.tree_flatten_with_path(_state(params, optimizer, ema_decay)[1])))
  )


def _update_digest(
  config: ModelConfig, adaptation: Adaptation, adapter: Lora, optimizer: Optimizer, ema_decay: float
) -> str:
  _, params, _ = _stand_in(config, adaptation, adapter)
  transformation, state = _state(params, optimizer, ema_decay)
  return _jaxpr_digest(
    make_update(transformation, ema_decay=ema_decay), state, params, jnp.float32(0)
  )


def _gradient_digest(
  config: ModelConfig, adaptation: Adaptation, adapter: Lora, label_smoothing: float
) -> str:
  structure, params, frozen = _stand_in(config, adaptation, adapter)
  batch = {
    'tokens': jnp.zeros((1, 8), jnp.int32),
    'weights': jnp.ones((1, 8)),
    'segment_ids': jnp.ones((1, 8), jnp.int32),
  }
  return _jaxpr_digest(
    jax.grad(make_loss(structure, label_smoothing=label_smoothing), has_aux=True),
    params,
    frozen,
    batch,
  )


def _jaxpr_digest(function: Callable, *arguments) -> str:
  jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
  # Without equations that nothing reads: Muon computes Adam's debiasing of no parameter at all
  # where every parameter is a matrix.
  live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
  return _digest(str(live))


def _digest(content: str | bytes) -> str:
  return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
