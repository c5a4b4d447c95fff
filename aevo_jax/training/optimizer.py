"""Optax transformations from a recipe."""

import optax

from aevo_jax.training.recipe import Optimizer


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
    body = optax.join_schedules([optax.constant_schedule(peak), optax.linear_schedule(peak, 0.0, decay)], [max(rest - decay, 0)])
  # The first step already moves: warm-up runs from peak / (warmup + 1), not from 0.
  return optax.join_schedules([optax.linear_schedule(peak / (warmup + 1), peak, max(warmup, 1)), body], [warmup])


def transformation(config: Optimizer, steps: int) -> optax.GradientTransformation:
  """Clip by global norm, then the named update rule with decoupled weight decay."""
  rate = schedule(config, steps)
  rules = {
      'adamw': lambda: optax.adamw(rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay),
      'lion': lambda: optax.lion(rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay),
      'muon': lambda: optax.contrib.muon(rate, beta=config.b1, weight_decay=config.weight_decay, adam_b1=config.b1, adam_b2=config.b2,
                                         adam_weight_decay=config.weight_decay),
  }
  return optax.chain(optax.clip_by_global_norm(config.clip_norm), rules[config.name]())
