"""One training run of a recipe: a campaign's worker and `aevo train` both go through here, so they
train the same thing.

Run         everything that `method.name` says, one after the other
  prepare   supervised fine-tuning: the adapted model and its batches, at step 0
  train     to the last step; adapters are merged, so that the result is a decoder's parameters
  again rl.run    reinforcement learning or DPO, on the base or on what supervised fine-tuning made
  of it
"""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import tokenizers

from aevo_jax.config.inference import Vllm
from aevo_jax.data import pipeline
from aevo_jax.data.corpus import Corpus
from aevo_jax.models import lora, scan_layers
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import Params, Structure
from aevo_jax.training import train_loop
from aevo_jax.training.optimizer import group_of, learning_rates, transformation
from aevo_jax.training.placement import Placement
from aevo_jax.training.recipe import fingerprint
from aevo_jax.training.recipe.recipe import Recipe
from aevo_jax.training.recipe.token_budget import Plan
from aevo_jax.training.rl import run as rl_run
from aevo_jax.training.run_control import Upkeep


class Prepared(NamedTuple):
  """A run before its first step; see `fingerprint.adapted` for what is frozen, and for when
  parameters are stacked.
  """

  config: ModelConfig
  structure: Structure
  params: Params
  frozen: Params
  batches: Iterator


def prepare(
  config: ModelConfig,
  recipe: Recipe,
  base: Mapping[str, np.ndarray],
  tokenizer: tokenizers.Tokenizer,
  *,
  size: str,
  seed: int,
  corpus: Corpus = Corpus(),
) -> Prepared:
  """The base under the recipe's adaptation, and the recipe's batches of puzzles of `size`, or of
  the tasks that `corpus` holds.
  """
  structure, params, frozen = fingerprint.adapted(
    config, recipe.adaptation, recipe.lora, base, seed
  )
  if recipe.optimizer.groups:
    group_of(recipe.optimizer.groups, params)  # raises ValueError before anything runs
  source = pipeline.SftSource(
    *fingerprint.source_inputs(recipe, tokenizer, size=size, seed=seed, corpus=corpus)
  )
  batches = pipeline.batches(
    source,
    rows=recipe.train.batch_rows,
    row_length=recipe.train.row_length,
    packing=recipe.train.packing,
    window=recipe.train.packing_window,
  )
  return Prepared(config, structure, params, frozen, batches)


def train(
  prepared: Prepared,
  recipe: Recipe,
  *,
  steps: int,
  directory: pathlib.Path,
  checkpoint_every: int = 0,
  on_step: Callable[[int, dict[str, float]], None] | None = None,
  placement: Placement | None = None,
  upkeep: Upkeep = Upkeep(),
  stop: Callable[[], bool] = lambda: False,
) -> Params:
  """Trains for `steps` steps in all, continuing from `directory`/checkpoints if there are any, and
  returns every parameter of the decoder.

  `placement` is where arrays lie on a mesh; None is the default device. `upkeep` and `stop` are the
  loop's.

  Raises:
    NonFiniteError: loss, gradient or the last weights are not finite.
  """
  config, structure, params, frozen, batches = prepared
  with placement.use() if placement else contextlib.nullcontext():
    state = train_loop.train(
      structure,
      params,
      frozen,
      transformation(recipe.optimizer),
      batches,
      learning_rates=learning_rates(recipe.optimizer, steps),
      directory=directory,
      label_smoothing=recipe.loss.label_smoothing,
      ema_decay=recipe.train.ema_decay,
      microbatches=recipe.train.microbatches,
      logits_chunk=recipe.train.logits_chunk,
      checkpoint_every=checkpoint_every,
      on_step=on_step,
      placement=placement,
      upkeep=upkeep,
      stop=stop,
    )
  final = {**frozen, **state.final_params()}
  if recipe.adaptation.method == 'lora':
    final = lora.merge(final, recipe.lora.alpha / recipe.lora.rank)
  if config.scan:
    final = scan_layers.unstack(final, config.pattern)
  train_loop.check_finite(final)
  return final


class Run:
  """A run before its first step. What cannot go together is refused here: ValueError.

  Two methods have a directory each: supervised fine-tuning `directory`, what follows it
  `directory`/then. vllm: of rollouts that a server draws.
  """

  def __init__(
    self,
    config: ModelConfig,
    recipe: Recipe,
    base: Mapping[str, np.ndarray],
    tokenizer: tokenizers.Tokenizer,
    *,
    size: str,
    seed: int,
    directory: pathlib.Path,
    corpus: Corpus = Corpus(),
    vllm: Vllm | None = None,
  ):
    self._config, self._recipe, self._directory = config, recipe, directory
    given = {'size': size, 'seed': seed, 'corpus': corpus}
    self._supervised = (
      prepare(config, recipe, base, tokenizer, **given) if recipe.method.supervised else None
    )
    self._on = functools.partial(
      rl_run.trainer,
      config,
      recipe,
      tokenizer=tokenizer,
      directory=directory / 'then' if self._supervised else directory,
      vllm=vllm,
      **given,
    )
    self._alone = None if self._supervised else self._on(base)

  def train(
    self,
    plan: Plan,
    *,
    checkpoint_every: int = 0,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    placement: Placement | None = None,
    upkeep: Upkeep = Upkeep(),
    stop: Callable[[], bool] = lambda: False,
  ) -> Params:
    """Trains for the plan's steps in all, continuing from the checkpoints in the run's directories,
    and returns every parameter of the decoder.

    Args:
      on_step: steps count on from one method to the next. placement: of supervised fine-tuning; see
        `train`. upkeep, stop: the loops'.

    Raises:
      NonFiniteError: see `train`. StoppedError: a gate or rule of reinforcement learning.
    """
    how, final = {'checkpoint_every': checkpoint_every, 'upkeep': upkeep, 'stop': stop}, None
    if self._supervised is not None:
      final = train(
        self._supervised,
        self._recipe,
        steps=plan.sft_steps,
        directory=self._directory,
        on_step=on_step,
        placement=placement,
        **how,
      )
      if not plan.rl_steps or stop():
        return final
    after = (
      None if on_step is None else lambda step, scalars: on_step(plan.sft_steps + step, scalars)
    )
    return rl_run.train(
      self._config,
      self._recipe,
      self._alone or self._on(final),
      steps=plan.rl_steps,
      on_step=after,
      **how,
    )
