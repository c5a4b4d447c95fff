"""PPO's loss of a critic, with clipped values.

The squared error is L^VF of equation 9 of 1707.06347. Its half and its clip are those of OpenAI's
Baselines (`ppo2`).
"""

import dataclasses
from typing import Annotated

import jax.numpy as jnp
from annotated_types import Interval
from jaxtyping import Array, Float

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import ReadWhen, one_of
from aevo_jax.training.losses.batch import AnyArray, Batch


@configurable(
  'critic',
  ReadWhen(one_of('method.name', 'rl', 'sft_then_rl')),
  ReadWhen(one_of('advantage.kind', 'gae')),
)
@dataclasses.dataclass(frozen=True)
class Critic:
  """The critic of advantage.kind = 'gae': a head on hidden states of the policy.

  It does not move the policy.

  Attributes:
    coefficient: of its loss beside the policy's.
    clip: of its values around the old ones; 0 does not clip.
  """

  coefficient: Annotated[float, Interval(ge=0, le=1000)] = 1.0
  clip: Annotated[float, Interval(ge=0, le=1000)] = 0.2


def value_loss(
  values_bt: Float[AnyArray, 'batch time'], batch: Batch, config: Critic
) -> Float[Array, '']:
  """Computes sum_t w_t / 2 max((v - R)^2, (v_old + clip(v - v_old, -clip, clip) - R)^2).

  The config's coefficient is not applied here.

  Args:
    values_bt: v, of the state before each token.
    batch: mask, weights, returns (R) and old_values (v_old). Where the mask is 0 they may hold NaN.
    config: the clip.

  Returns:
    A scalar that adds up over rows.
  """
  chosen = batch['mask'] > 0
  values = jnp.where(chosen, values_bt, 0)
  returns = jnp.where(chosen, batch['returns'], 0)
  old = jnp.where(chosen, batch['old_values'], 0)
  error = jnp.square(values - returns)
  if config.clip:
    clipped = old + jnp.clip(values - old, -config.clip, config.clip)
    error = jnp.maximum(error, jnp.square(clipped - returns))
  return jnp.sum(jnp.where(chosen, batch['weights'] * error / 2, 0))
