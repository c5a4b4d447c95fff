"""What changes while training: step, trained parameters, optimizer state, and a moving average if
the recipe asks for one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from aevo_jax.models.params import Params


class TrainState(NamedTuple):
  step: jax.Array
  params: Params
  opt_state: Any
  ema: Params | None

  @classmethod
  def create(
    cls, params: Params, transformation: optax.GradientTransformation, ema_decay: float
  ) -> 'TrainState':
    """Step 0. Arrays are copied, since the state is donated to every step."""
    params = jax.tree.map(jnp.copy, params)
    return cls(
      jnp.zeros((), jnp.int32),
      params,
      transformation.init(params),
      jax.tree.map(jnp.copy, params) if ema_decay else None,
    )

  def final_params(self) -> Params:
    """The weights a trial hands in: the moving average if there is one."""
    return self.params if self.ema is None else self.ema
