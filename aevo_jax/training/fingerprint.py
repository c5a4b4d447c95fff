"""What a recipe does, as digests: two recipes with equal fingerprints train the same thing.

Reading a value into a dataclass proves nothing about its use, so the fingerprint is taken from what acts: the items, the learning
rate at every step, the layout of the training state, and the jaxpr of the whole training step. State and jaxpr are those of a small stand-in with one
block of each kind, since no recipe value depends on the model's width; everything else is the real thing.
"""

import hashlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers
from jax.interpreters import partial_eval

from aevo_jax.data import pipeline
from aevo_jax.models import lora
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import Params, Structure, abstract, is_adapter, unbind
from aevo_jax.training import optimizer as optimizer_lib
from aevo_jax.training.recipe import Recipe
from aevo_jax.training.train_state import TrainState
from aevo_jax.training.train_step import make_train_step

ITEMS_COMPARED = 256


def adapted(config: ModelConfig, recipe: Recipe, base: Mapping[str, np.ndarray] | None, seed: int) -> tuple[Structure, Params, Params]:
  """The model a recipe trains.

  Args:
    base: the base checkpoint's arrays by name; None leaves shapes in their place.
    seed: of the adapters.

  Returns:
    structure, trained parameters, frozen parameters. Under full fine-tuning nothing is frozen.
  """
  model = abstract(config)
  if recipe.adaptation.method == 'lora':
    lora.attach(model, rank=recipe.lora.rank, alpha=recipe.lora.alpha, targets=recipe.lora.targets, seed=seed)
  structure, params = unbind(model)
  if base is not None:
    params |= {name: jnp.asarray(value) for name, value in base.items()}
  if recipe.adaptation.method == 'full':
    return structure, params, {}
  return structure, {k: v for k, v in params.items() if is_adapter(k)}, {k: v for k, v in params.items() if not is_adapter(k)}


def source(recipe: Recipe, tokenizer: tokenizers.Tokenizer, *, size: str, seed: int) -> pipeline.SftSource:
  """The recipe's item stream."""
  return pipeline.SftSource(seed, recipe.mixture(size), tokenizer, recipe.solution_style, recipe.loss.reasoning_weight, recipe.data.plain_share)


def components(recipe: Recipe, tokenizer: tokenizers.Tokenizer, *, size: str, seed: int, steps: int) -> dict[str, Callable[[], str]]:
  """Digests by name, cheapest first, each computed when called."""
  return {
      'stop': lambda: _digest(str((steps, recipe.train.batch_rows, recipe.train.row_length))),
      'schedule': lambda: _digest(optimizer_lib.learning_rates(recipe.optimizer, steps).tobytes()),
      'batches': lambda: _batches_digest(recipe, tokenizer, size, seed),
      'state': lambda: _digest(_stand_in_state(recipe)[-1]),
      'step': lambda: _step_digest(recipe),
      'later_batches': lambda: _later_batches_digest(recipe, tokenizer, size, seed, steps),
  }


def _batches_digest(recipe: Recipe, tokenizer: tokenizers.Tokenizer, size: str, seed: int) -> str:
  stream, state = source(recipe, tokenizer, size=size, seed=seed), hashlib.sha256()
  for index in range(ITEMS_COMPARED):
    sequence = stream[index]
    state.update(sequence.tokens.tobytes() + sequence.weights.tobytes())
  return state.hexdigest()


def _later_batches_digest(recipe: Recipe, tokenizer: tokenizers.Tokenizer, size: str, seed: int, steps: int) -> str:
  # A change to a rare family may leave the first items alone and still act on those that follow.
  stream, state = source(recipe, tokenizer, size=size, seed=seed), hashlib.sha256()
  index, left = ITEMS_COMPARED, steps * recipe.train.batch_rows * recipe.train.row_length - sum(len(stream[i].tokens) for i in range(ITEMS_COMPARED))
  while left > 0:
    sequence = stream[index]
    state.update(sequence.tokens.tobytes() + sequence.weights.tobytes())
    index, left = index + 1, left - len(sequence.tokens)
  return state.hexdigest()


def _stand_in_state(recipe: Recipe) -> tuple[Structure, optax.GradientTransformation, TrainState, Params, str]:
  """structure, transformation, state and frozen parameters (shapes, no arrays) of the small stand-in, and a text that tells its layout."""
  stand_in = ModelConfig(vocab_size=8, hidden_size=64, pattern='M*-', num_attention_heads=2, num_key_value_heads=1, head_dim=32, intermediate_size=64,
                         mamba_num_heads=2, mamba_head_dim=16, ssm_state_size=8, chunk_size=8)
  structure, params, frozen = adapted(stand_in, recipe, None, seed=0)
  transformation = optimizer_lib.transformation(recipe.optimizer, baked=True)
  shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in params.items()}
  state = jax.eval_shape(lambda p: TrainState.create(p, transformation, recipe.train.ema_decay), shapes)
  return structure, transformation, state, frozen, str(jax.tree_util.tree_flatten_with_path(state))


def _step_digest(recipe: Recipe) -> str:
  structure, transformation, state, frozen, _ = _stand_in_state(recipe)
  step = make_train_step(structure, transformation, label_smoothing=recipe.loss.label_smoothing, ema_decay=recipe.train.ema_decay)
  batch = {'tokens': jnp.zeros((1, 8), jnp.int32), 'weights': jnp.ones((1, 8)), 'segment_ids': jnp.ones((1, 8), jnp.int32)}
  jaxpr = jax.make_jaxpr(step)(state, frozen, batch, jnp.float32(0)).jaxpr
  # Without equations that nothing reads: Muon computes Adam's debiasing of no parameter at all where every parameter is a matrix.
  live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
  return _digest(str(live))


def _digest(content: str | bytes) -> str:
  return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
