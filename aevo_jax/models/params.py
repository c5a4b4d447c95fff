"""Models as functions of a flat dictionary of arrays, {'layers.0.mixer.in_proj.kernel': array}.

Training, checkpoints, digests and export all speak of parameters by these names; Flax NNX keeps the
structure.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import Decoder, create

Params = dict[str, jax.Array]
_FLOAT32 = ('A_log', 'D', 'dt_bias', 'e_score_correction_bias')


@dataclasses.dataclass(frozen=True)
class Structure:
  """A decoder without its arrays. Hashable, so it can be a static argument of a jitted function."""

  graphdef: Any

  def bind(self, params: Mapping[str, jax.Array]) -> Decoder:
    """The decoder that uses these arrays (all of them, by name)."""
    return nnx.merge(
      self.graphdef,
      nnx.from_flat_state(
        {
          tuple(_part(p) for p in name.split('.')): nnx.Param(value)
          for name, value in params.items()
        }
      ),
    )


def _part(text: str) -> str | int:
  return int(text) if text.isdigit() else text


def unbind(model: Decoder) -> tuple[Structure, Params]:
  """Splits a decoder into structure and named arrays; shapes in their place where the decoder is
  abstract.
  """
  graphdef, state = nnx.split(model)
  return Structure(graphdef), {
    '.'.join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)
  }


def abstract(config: ModelConfig) -> Decoder:
  """A decoder of shapes instead of arrays."""
  return nnx.eval_shape(lambda: create(config, 0))


def outline(config: ModelConfig) -> tuple[Structure, dict[str, jax.ShapeDtypeStruct]]:
  """Structure and shapes of a decoder, without making its arrays."""
  return unbind(abstract(config))


def logical_axes(model: Decoder) -> dict[str, tuple[str, ...]]:
  """{parameter name: one logical axis name per dimension}."""
  return {
    '.'.join(map(str, path)): variable.get_metadata()['logical_axes']
    for path, variable in nnx.to_flat_state(nnx.state(model))
  }


def is_router_bias(name: str) -> bool:
  """Whether a parameter is the bias by which a router chooses experts; whoever trains the router
  sets it from the experts' load.
  """
  return name.endswith('.e_score_correction_bias')


def resident_dtype(name: str, stored: jnp.dtype, *, frozen: bool) -> jnp.dtype:
  """The dtype in which a parameter lies in memory while training: float32 for what is trained; what
  is frozen, as it was stored, so that it can be given back, but for the few that the reference
  keeps in float32."""
  return jnp.dtype(stored if frozen and name.rpartition('.')[2] not in _FLOAT32 else 'float32')


def is_adapter(name: str) -> bool:
  """Whether a parameter belongs to a LoRA adapter."""
  return name.rsplit('.', 1)[-1] in ('lora_a', 'lora_b')
