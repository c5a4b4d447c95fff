"""The model that is trained: a base checkpoint under the recipe's adaptation."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from aevo_jax.models import lora, scan_layers
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import (
  Params,
  Structure,
  abstract,
  is_adapter,
  is_router_bias,
  resident_dtype,
  unbind,
)
from aevo_jax.training.recipe.recipe import Adaptation, Lora, Recipe


class PolicyModel(NamedTuple):
  """A decoder with its arrays, split by what the optimizer moves.

  structure: the decoder without arrays.
  params: trained parameters.
  frozen: the other parameters. Under full fine-tuning these are only the biases of routers, which
    no gradient moves but weight decay would.
  """

  structure: Structure
  params: Params
  frozen: Params


def adapt_model(
  config: ModelConfig,
  adaptation: Adaptation,
  adapter: Lora,
  base: Mapping[str, Any] | None,
  seed: int,
) -> PolicyModel:
  """Puts the base checkpoint under an adaptation.

  Args:
    config: of the model; with `scan`, parameters of equal blocks are stacked.
    adaptation: full fine-tuning or an adapter.
    adapter: rank, scale and targets, read where the adaptation is an adapter.
    base: the checkpoint's arrays by name, stacked or not; None leaves shapes in their place.
    seed: initializes the adapters.

  Returns:
    The model. Trained parameters are float32; frozen ones keep the dtype they were stored in.

  Raises:
    ValueError: the adapter's targets match nothing.
  """
  model = abstract(config)
  by_adapter = adaptation.method == 'lora'
  if by_adapter:
    lora.attach(model, rank=adapter.rank, alpha=adapter.alpha, targets=adapter.targets, seed=seed)
  structure, params = unbind(scan_layers.Scanned(model) if config.scan else model)
  if base is not None:
    if config.scan and not any(scan_layers.is_stacked(name) for name in base):
      base = scan_layers.stack(base, config.pattern)
    for name, value in base.items():
      dtype = resident_dtype(name, value.dtype, frozen=by_adapter)
      params[name] = jnp.asarray(value, dtype)
  trained = {}
  frozen = {}
  for name, value in params.items():
    if is_adapter(name) or not (by_adapter or is_router_bias(name)):
      trained[name] = value
    else:
      frozen[name] = value
  return PolicyModel(structure, trained, frozen)


def decoder_params(params: Mapping[str, Any], config: ModelConfig, recipe: Recipe) -> Params:
  """Merges adapters and unstacks layers, so that a plain decoder can use the parameters.

  Args:
    params: trained and frozen parameters, by the names of `adapt_model`.
    config: of the model that was trained.
    recipe: tells whether there are adapters, and their scale.

  Returns:
    Every parameter of the decoder by its own name.
  """
  if recipe.adaptation.method == 'lora':
    params = lora.merge(params, recipe.lora.alpha / recipe.lora.rank)
  if config.scan:
    return scan_layers.unstack(params, config.pattern)
  return dict(params)
