"""What changes while training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from aevo_jax.models.params import Params


class TrainState(NamedTuple):
  """A run between two steps.

  step: updates so far, int32.
  params: trained parameters.
  opt_state: of the optimizer.
  ema: moving average of the parameters, if the recipe has one.
  """

  step: jax.Array
  params: Params
  opt_state: Any
  ema: Params | None

  @classmethod
  def create(
    cls, params: Params, transformation: optax.GradientTransformation, ema_decay: float
  ) -> 'TrainState':
    """Builds the state before the first step.

    Args:
      params: copied, since the state is donated to every step.
      transformation: the optimizer.
      ema_decay: of the moving average; 0 keeps none.
    """
    params = jax.tree.map(jnp.copy, params)
    ema = jax.tree.map(jnp.copy, params) if ema_decay else None
    return cls(jnp.zeros((), jnp.int32), params, transformation.init(params), ema)

  def final_params(self) -> Params:
    """Returns the weights that a trial hands in: the moving average if there is one."""
    return self.params if self.ema is None else self.ema
