"""One training run of a recipe: a campaign's worker and `aevo train` both go through here, so they train the same thing.

    prepare   the adapted model and its batches, at step 0
    train     to the last step; adapters are merged, so that the result is a decoder's parameters again
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import tokenizers

from aevo_jax.data import pipeline
from aevo_jax.data.corpus import Corpus
from aevo_jax.models import lora, scan_layers
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import Params, Structure
from aevo_jax.training import fingerprint, train_loop
from aevo_jax.training.optimizer import group_of, learning_rates, transformation
from aevo_jax.training.placement import Placement
from aevo_jax.training.recipe import Recipe
from aevo_jax.training.upkeep import Upkeep


class Prepared(NamedTuple):
  """A run before its first step; see `fingerprint.adapted` for what is frozen, and for when parameters are stacked."""

  config: ModelConfig
  structure: Structure
  params: Params
  frozen: Params
  batches: Iterator


def prepare(config: ModelConfig, recipe: Recipe, base: Mapping[str, np.ndarray], tokenizer: tokenizers.Tokenizer, *, size: str, seed: int,
            corpus: Corpus = Corpus()) -> Prepared:
  """The base under the recipe's adaptation, and the recipe's batches of puzzles of `size`, or of the tasks that `corpus` holds."""
  structure, params, frozen = fingerprint.adapted(config, recipe.adaptation, recipe.lora, base, seed)
  if recipe.optimizer.groups:
    group_of(recipe.optimizer.groups, params)  # raises ValueError before anything runs
  source = pipeline.SftSource(*fingerprint.source_inputs(recipe, tokenizer, size=size, seed=seed, corpus=corpus))
  batches = pipeline.batches(source, rows=recipe.train.batch_rows, row_length=recipe.train.row_length, packing=recipe.train.packing, window=recipe.train.packing_window)
  return Prepared(config, structure, params, frozen, batches)


def train(prepared: Prepared, recipe: Recipe, *, steps: int, directory: pathlib.Path, checkpoint_every: int = 0,
          on_step: Callable[[int, dict[str, float]], None] | None = None, placement: Placement | None = None, upkeep: Upkeep = Upkeep(),
          stop: Callable[[], bool] = lambda: False) -> Params:
  """Trains for `steps` steps in all, continuing from `directory`/checkpoints if there are any, and returns every parameter of the decoder.

  `placement` is where arrays lie on a mesh; None is the default device. `upkeep` and `stop` are the loop's.

  Raises:
    NonFiniteError: loss, gradient or the last weights are not finite.
  """
  config, structure, params, frozen, batches = prepared
  with placement.use() if placement else contextlib.nullcontext():
    state = train_loop.train(structure, params, frozen, transformation(recipe.optimizer), batches,
                             learning_rates=learning_rates(recipe.optimizer, steps), directory=directory, label_smoothing=recipe.loss.label_smoothing,
                             ema_decay=recipe.train.ema_decay, microbatches=recipe.train.microbatches, logits_chunk=recipe.train.logits_chunk,
                             checkpoint_every=checkpoint_every, on_step=on_step, placement=placement, upkeep=upkeep, stop=stop)
  final = {**frozen, **state.final_params()}
  if recipe.adaptation.method == 'lora':
    final = lora.merge(final, recipe.lora.alpha / recipe.lora.rank)
  if config.scan:
    final = scan_layers.unstack(final, config.pattern)
  train_loop.check_finite(final)
  return final
