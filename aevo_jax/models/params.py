"""Models as functions of a flat dictionary of arrays, {'layers.0.mixer.in_proj.kernel': array}.

Training, checkpoints, digests and export all speak of parameters by these names; Flax NNX keeps the
structure.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import Decoder, create

Params = dict[str, jax.Array]
if not TYPE_CHECKING:
  # Checks at run time meet shapes too, with which estimates trace, and arrays of a checkpoint.
  Params = dict[str, jax.Array | jax.ShapeDtypeStruct | np.ndarray]
# The leaves that the reference keeps in float32 whatever the rest is.
_FLOAT32 = ('A_log', 'D', 'dt_bias', 'e_score_correction_bias')


@dataclasses.dataclass(frozen=True)
class Structure:
  """A decoder without its arrays. Hashable, so it can be a static argument of a jitted function."""

  graphdef: Any

  def bind(self, params: Mapping[str, Any]) -> Decoder:
    """Gives the structure its arrays.

    Args:
      params: all of them, by name.

    Returns:
      The decoder that uses them.
    """
    flat: dict[Any, Any] = {}
    for name, value in params.items():
      flat[tuple(_part(part) for part in name.split('.'))] = nnx.Param(value)
    return nnx.merge(self.graphdef, nnx.from_flat_state(flat))


def _part(text: str) -> str | int:
  return int(text) if text.isdigit() else text


def unbind(model: nnx.Module) -> tuple[Structure, dict[str, Any]]:
  """Splits a decoder.

  Args:
    model: a decoder or a part of one, of arrays or abstract.

  Returns:
    The structure, and the arrays by name; of an abstract decoder their shapes.
  """
  graphdef, state = nnx.split(model)
  params = {}
  for path, variable in nnx.to_flat_state(state):
    params['.'.join(str(part) for part in path)] = variable.get_value()
  return Structure(graphdef), params


def abstract(config: ModelConfig) -> Decoder:
  """Makes a decoder of shapes instead of arrays.

  Args:
    config: its shape.

  Returns:
    The decoder; nothing is allocated.
  """
  return nnx.eval_shape(lambda: create(config, 0))


def outline(config: ModelConfig) -> tuple[Structure, dict[str, jax.ShapeDtypeStruct]]:
  """Makes a decoder's structure without its arrays.

  Args:
    config: its shape.

  Returns:
    The structure, and the shape of every parameter.
  """
  structure, shapes = _outline(config)
  return structure, dict(shapes)


@functools.lru_cache(maxsize=8)  # a second of tracing for a deep model
def _outline(config: ModelConfig) -> tuple[Structure, dict[str, jax.ShapeDtypeStruct]]:
  return unbind(abstract(config))


def logical_axes(model: nnx.Module) -> dict[str, tuple[str, ...]]:
  """Lists the logical axes of a model's parameters.

  Args:
    model: a decoder or a part of one, of arrays or of shapes.

  Returns:
    {parameter name: one logical axis name for each dimension}.
  """
  axes = {}
  for path, variable in nnx.to_flat_state(nnx.state(model)):
    axes['.'.join(str(part) for part in path)] = variable.get_metadata()['logical_axes']
  return axes


def is_router_bias(name: str) -> bool:
  """Tells whether a parameter is the bias by which a router chooses experts.

  Args:
    name: ours. Whoever trains the router sets this bias from the experts' load.

  Returns:
    True for the bias.
  """
  return name.endswith('.e_score_correction_bias')


def resident_dtype(name: str, stored: Any, *, frozen: bool) -> jnp.dtype:
  """Chooses the dtype in which a parameter lies in memory while training.

  Args:
    name: ours.
    stored: the dtype in which it was stored.
    frozen: whether it stays as it is. Then it keeps the stored dtype, so that it can be given back,
      but for the few that the reference keeps in float32.

  Returns:
    float32 for what is trained.
  """
  if frozen and name.rpartition('.')[2] not in _FLOAT32:
    return jnp.dtype(stored)
  return jnp.dtype('float32')


def is_adapter(name: str) -> bool:
  """Tells whether a parameter belongs to a LoRA adapter, by our name."""
  return name.rsplit('.', 1)[-1] in ('lora_a', 'lora_b')
