"""Optax transformations from a recipe."""

import re
from collections.abc import Sequence

import jax
import numpy as np
import optax

from aevo_jax.models import scan_layers
from aevo_jax.models.params import Params
from aevo_jax.training.recipe.recipe import Optimizer


def schedule(config: Optimizer, steps: int) -> optax.Schedule:
  """Learning rate by step, 0-based."""
  peak = config.learning_rate
  warmup = round(config.warmup_fraction * steps)
  rest = max(steps - warmup, 1)
  if config.schedule == 'constant':
    body = optax.constant_schedule(peak)
  elif config.schedule == 'linear':
    body = optax.linear_schedule(peak, 0.0, rest)
  elif config.schedule == 'cosine':
    body = optax.cosine_decay_schedule(peak, rest)
  else:
    decay = max(round(config.decay_fraction * steps), 1)
    body = optax.join_schedules(
      [optax.constant_schedule(peak), optax.linear_schedule(peak, 0.0, decay)],
      [max(rest - decay, 0)],
    )
  # The first step already moves: warm-up runs from peak / (warmup + 1), not from 0.
  return optax.join_schedules(
    [optax.linear_schedule(peak / (warmup + 1), peak, max(warmup, 1)), body], [warmup]
  )


def learning_rates(config: Optimizer, steps: int) -> np.ndarray:
  """[steps] float32: the learning rate of each step."""
  return np.asarray(
    jax.jit(jax.vmap(schedule(config, steps)))(np.arange(steps)), np.float32
  )  # jit: one program to compile, not one for each operation


def _matrices(params: Params) -> dict[str, optax.contrib.MuonDimensionNumbers | None]:
  """Which parameters Muon orthogonalizes, and over which axes: matrices, one by one where they lie
  stacked by layer or by expert. The rest is Adam's.
  """

  def axes(
    name: str, value: jax.Array | optax.MaskedNode
  ) -> optax.contrib.MuonDimensionNumbers | None:
    leading = scan_layers.is_stacked(name) + ('.experts.' in name)
    matrix = (
      not isinstance(value, optax.MaskedNode) and value.ndim == leading + 2
    )  # Optax masks what it gave to Adam
    return (
      optax.contrib.MuonDimensionNumbers(reduction_axis=leading, output_axis=leading + 1)
      if matrix
      else None
    )

  return {name: axes(name, value) for name, value in params.items()}


_RULES = {
  'adamw': lambda rate, b1, b2, decay: optax.adamw(rate, b1=b1, b2=b2, weight_decay=decay),
  'lion': lambda rate, b1, b2, decay: optax.lion(rate, b1=b1, b2=b2, weight_decay=decay),
  'muon': lambda rate, b1, b2, decay: optax.contrib.muon(
    rate,
    beta=b1,
    weight_decay=decay,
    adam_b1=b1,
    adam_b2=b2,
    adam_weight_decay=decay,
    muon_weight_dimension_numbers=_matrices,
  ),
  'adafactor': lambda rate, b1, b2, decay: optax.chain(
    optax.adafactor(rate), _decayed(rate, decay)
  ),  # its own decay would not be scaled by the learning rate
  'sgd': lambda rate, b1, b2, decay: optax.chain(
    optax.sgd(rate, momentum=b1), _decayed(rate, decay)
  ),
}


def _decayed(rate: jax.Array, decay: jax.Array) -> optax.GradientTransformation:
  """Decoupled weight decay after a rule that has scaled by the learning rate already: - rate *
  decay * parameter.
  """
  return optax.add_decayed_weights(-rate * decay)


def group_of(groups: Sequence[tuple[str, float, float]], params: Params) -> dict[str, str]:
  """{parameter name: pattern of its group}.

  Raises:
    ValueError: a parameter matches no group, or several.
  """
  found = {
    name: [pattern for pattern, *_ in groups if re.fullmatch(pattern, name)] for name in params
  }
  for wrong, what in (
    ([n for n, g in found.items() if not g], 'match no pattern'),
    ([n for n, g in found.items() if len(g) > 1], 'match several patterns'),
  ):
    if wrong:
      raise ValueError(
        f'optimizer.groups must cover every parameter exactly once; {len(wrong)} {what}: '
        f'{", ".join(sorted(wrong)[:5])}{" ..." if len(wrong) > 5 else ""}'
      )
  return {name: pattern for name, (pattern,) in found.items()}


def transformation(config: Optimizer, *, baked: bool = False) -> optax.GradientTransformation:
  """Clip by global norm, then the named update rule with decoupled weight decay.

  The numbers live in the optimizer's state (`optax.inject_hyperparams`), and the training step sets
  the learning rate of each step there; so recipes that differ in numbers alone share one compiled
  program.

  Args:
    baked: makes the numbers constants of the program instead, so that a jaxpr shows which of them
      are used, and where.
  """

  def rule(learning_rate, b1, b2, weight_decay, clip_norm):
    update = _RULES[config.name]
    if not config.groups:
      return optax.chain(
        optax.clip_by_global_norm(clip_norm), update(learning_rate, b1, b2, weight_decay)
      )
    # Checkpoints have a group by its number, since a pattern may hold what no path can.
    names = {pattern: f'group{i}' for i, (pattern, *_) in enumerate(config.groups)}
    grouped = {
      names[pattern]: update(learning_rate * rate, b1, b2, weight_decay * decay)
      for pattern, rate, decay in config.groups
    }
    labels = lambda params: {
      name: names[pattern] for name, pattern in group_of(config.groups, params).items()
    }
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.partition(grouped, labels))

  factory = rule if baked else optax.inject_hyperparams(rule)
  return factory(
    learning_rate=config.learning_rate,
    b1=config.b1,
    b2=config.b2,
    weight_decay=config.weight_decay,
    clip_norm=config.clip_norm,
  )
