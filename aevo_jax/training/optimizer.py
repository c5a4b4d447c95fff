"""Optax transformations from a recipe."""

import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Float32

from aevo_jax.models import scan_layers
from aevo_jax.models.params import Params
from aevo_jax.training.recipe.recipe import Optimizer

Number = float | jax.Array


def schedule(config: Optimizer, steps: int) -> optax.Schedule:
  """Builds the learning rate as a function of the step.

  Args:
    config: peak, warm-up and form of the schedule.
    steps: of the whole run.

  Returns:
    A function of the step, which counts from 0.
  """
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


def learning_rates(config: Optimizer, steps: int) -> Float32[np.ndarray, ' steps']:
  """Computes the learning rate of each step.

  Args:
    config: of the optimizer.
    steps: of the whole run.
  """
  # Jitted, so that there is one program to compile, not one for each operation.
  rates = jax.jit(jax.vmap(schedule(config, steps)))(np.arange(steps))
  return np.asarray(rates, np.float32)


def _muon_axes(name: str, value: Any) -> optax.contrib.MuonDimensionNumbers | None:
  """Returns the axes of a matrix that Muon orthogonalizes; None leaves the parameter to Adam.

  Matrices that lie stacked by layer or by expert are orthogonalized one by one.
  """
  # Optax masks what it gave to Adam.
  if isinstance(value, optax.MaskedNode):
    return None
  leading = scan_layers.is_stacked(name) + ('.experts.' in name)
  if value.ndim != leading + 2:
    return None
  return optax.contrib.MuonDimensionNumbers(reduction_axis=leading, output_axis=leading + 1)


def _matrices(params: Any) -> Any:
  return {name: _muon_axes(name, value) for name, value in params.items()}


def _adamw(rate: Number, b1: Number, b2: Number, decay: Number) -> optax.GradientTransformation:
  return optax.adamw(rate, b1=b1, b2=b2, weight_decay=decay)


def _lion(rate: Number, b1: Number, b2: Number, decay: Number) -> optax.GradientTransformation:
  return optax.lion(rate, b1=b1, b2=b2, weight_decay=decay)


def _muon(rate: Number, b1: Number, b2: Number, decay: Number) -> optax.GradientTransformation:
  return optax.contrib.muon(
    rate,
    beta=b1,
    weight_decay=decay,
    adam_b1=b1,
    adam_b2=b2,
    adam_weight_decay=decay,
    muon_weight_dimension_numbers=_matrices,
  )


def _adafactor(rate: Number, b1: Number, b2: Number, decay: Number) -> optax.GradientTransformation:
  del b1, b2
  # Its own decay would not be scaled by the learning rate.
  return optax.chain(optax.adafactor(rate), _decoupled_decay(rate, decay))


def _sgd(rate: Number, b1: Number, b2: Number, decay: Number) -> optax.GradientTransformation:
  del b2
  return optax.chain(optax.sgd(rate, momentum=b1), _decoupled_decay(rate, decay))


def _decoupled_decay(rate: Number, decay: Number) -> optax.GradientTransformation:
  """Adds - rate * decay * parameter, after a rule that has scaled by the learning rate already."""
  return optax.add_decayed_weights(-rate * decay)


_RULES: dict[str, Callable[..., optax.GradientTransformation]] = {
  'adamw': _adamw,
  'lion': _lion,
  'muon': _muon,
  'adafactor': _adafactor,
  'sgd': _sgd,
}


def group_of(groups: Sequence[tuple[str, float, float]], params: Params) -> dict[str, str]:
  """Finds the group of every parameter.

  Args:
    groups: as `Optimizer.groups`: a pattern for whole names, and two factors.
    params: by name.

  Returns:
    parameter name -> pattern of its group.

  Raises:
    ValueError: a parameter matches no group, or several.
  """
  patterns = [pattern for pattern, _, _ in groups]
  matches = {
    name: [pattern for pattern in patterns if re.fullmatch(pattern, name)] for name in params
  }
  _refuse_names([n for n, m in matches.items() if not m], 'match no pattern')
  _refuse_names([n for n, m in matches.items() if len(m) > 1], 'match several patterns')
  return {name: pattern for name, (pattern,) in matches.items()}


def _refuse_names(names: Sequence[str], problem: str) -> None:
  """Raises ValueError if there are any parameters with this problem."""
  if not names:
    return
  more = ' ...' if len(names) > 5 else ''
  raise ValueError(
    f'optimizer.groups must cover every parameter exactly once; {len(names)} {problem}: '
    f'{", ".join(sorted(names)[:5])}{more}'
  )


def _grouped(
  update_rule: Callable[..., optax.GradientTransformation],
  groups: Sequence[tuple[str, float, float]],
  rate: Number,
  b1: Number,
  b2: Number,
  decay: Number,
) -> optax.GradientTransformation:
  """Applies the rule with each group's factors of learning rate and weight decay."""
  # Checkpoints have a group by its number, since a pattern may hold what no path can.
  names = {pattern: f'group{i}' for i, (pattern, _, _) in enumerate(groups)}
  rules: dict[Hashable, optax.GradientTransformation] = {}
  for pattern, rate_factor, decay_factor in groups:
    rules[names[pattern]] = update_rule(rate * rate_factor, b1, b2, decay * decay_factor)

  def labels(params: Params) -> dict[str, str]:
    return {name: names[pattern] for name, pattern in group_of(groups, params).items()}

  return optax.partition(rules, labels)


def transformation(config: Optimizer, *, baked: bool = False) -> optax.GradientTransformation:
  """Builds the optimizer: clip by global norm, then the named update rule.

  Weight decay is decoupled. The numbers live in the optimizer's state
  (`optax.inject_hyperparams`), and the training step sets the learning rate of each step there. So
  recipes that differ in numbers alone share one compiled program.

  Args:
    config: names the rule and its numbers.
    baked: makes the numbers constants of the program instead, so that a jaxpr shows which of them
      are used, and where.

  Returns:
    The transformation.
  """

  def rule(learning_rate, b1, b2, weight_decay, clip_norm):
    update_rule = _RULES[config.name]
    if config.groups:
      update = _grouped(update_rule, config.groups, learning_rate, b1, b2, weight_decay)
    else:
      update = update_rule(learning_rate, b1, b2, weight_decay)
    return optax.chain(optax.clip_by_global_norm(clip_norm), update)

  factory = rule if baked else optax.inject_hyperparams(rule)
  return factory(
    learning_rate=config.learning_rate,
    b1=config.b1,
    b2=config.b2,
    weight_decay=config.weight_decay,
    clip_norm=config.clip_norm,
  )
