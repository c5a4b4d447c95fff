"""The critic's head: one hidden layer on the policy's hidden states."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aevo_jax.models.decoder import Decoder
from aevo_jax.models.params import Params

PREFIX = 'critic.'  # before the names of its parameters


class Split(NamedTuple):
  """The parameters of a policy and of its critic."""

  policy: Params
  critic: Params


def init(width: int, seed: int) -> Params:
  """Makes a head that returns 0 before it is trained.

  Args:
    width: of the hidden states.
    seed: of the first layer.

  Returns:
    Its parameters.
  """
  key = jax.random.key(seed)
  return {
    f'{PREFIX}up': jax.random.normal(key, (width, width)) / width**0.5,
    f'{PREFIX}down': jnp.zeros((width, 1)),
  }


def split(params: Params) -> Split:
  """Separates the policy's parameters from the critic's.

  Args:
    params: trained parameters. There may be no critic among them.

  Returns:
    Both by their own names.
  """
  policy = {}
  critic = {}
  for name, value in params.items():
    if name.startswith(PREFIX):
      critic[name] = value
    else:
      policy[name] = value
  return Split(policy, critic)


def values(
  model: Decoder, critic: Params, hidden: Float[Array, '*positions width']
) -> Float[Array, '*positions']:
  """Computes the value of the state at each position.

  The critic reads the policy and does not move it, its last norm included.

  Args:
    model: the policy, for its last norm.
    critic: the head's parameters.
    hidden: what the policy's blocks give.

  Returns:
    The values.
  """
  read = jax.lax.stop_gradient(model.norm_f(hidden)).astype(jnp.float32)
  return (jax.nn.gelu(read @ critic[f'{PREFIX}up']) @ critic[f'{PREFIX}down'])[..., 0]
