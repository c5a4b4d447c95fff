"""Mixture of experts as Nemotron-H uses it: a sigmoid router, ungated relu^2 experts, optionally in a latent space, and one shared expert.

Routing is DeepSeek-V3's (2412.19437, section 2.1.2): a bias, which no gradient moves, decides with the score which experts are chosen; the weights come from
the scores alone. Every token reaches all of its experts (nothing is dropped): tokens are sorted by expert and multiplied group by group.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.grouped_matmul import grouped_matmul
from aevo_jax.models.layers import MLP, Linear, param
from aevo_jax.sharding.context import over_experts


class Routing(NamedTuple):
  """experts [s, k] int32 and weights [s, k] float32, of s tokens."""

  experts: jax.Array
  weights: jax.Array


class Router(nnx.Module):
  """Scores experts, in float32 whatever the activations are."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.kernel = param(jax.random.normal(rngs.params(), (config.hidden_size, config.n_routed_experts), jnp.float32) / math.sqrt(config.hidden_size),
                        'embed', 'experts')
    self.e_score_correction_bias = param(jnp.zeros(config.n_routed_experts, jnp.float32), 'experts')

  def __call__(self, x_sd: jax.Array) -> Routing:
    c = self.config
    scores = jax.nn.sigmoid(x_sd.astype(jnp.float32) @ self.kernel[...].astype(jnp.float32))
    choice = scores + jax.lax.stop_gradient(self.e_score_correction_bias[...])
    if c.topk_group < c.n_group:
      grouped = choice.reshape(-1, c.n_group, c.n_routed_experts // c.n_group)
      best = jax.lax.top_k(grouped, min(2, grouped.shape[-1]))[0].sum(axis=-1)
      chosen = jax.lax.top_k(best, c.topk_group)[1]
      eligible = jnp.any(chosen[..., None] == jnp.arange(c.n_group), axis=1)
      choice = jnp.where(jnp.repeat(eligible, grouped.shape[-1], axis=1), choice, -jnp.inf)
    experts = jax.lax.top_k(choice, c.num_experts_per_tok)[1]
    weights = jnp.take_along_axis(scores, experts, axis=1)
    if c.norm_topk_prob:
      weights = weights / (weights.sum(axis=1, keepdims=True) + 1e-20)
    return Routing(experts, weights * c.routed_scaling_factor)


class Experts(nnx.Module):
  """The routed experts' weights: up_proj [e, d, f], down_proj [e, f, d]."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    e, d, f = config.n_routed_experts, config.moe_latent_size or config.hidden_size, config.moe_intermediate_size
    self.implementation = config.moe_implementation
    self.up_proj = param(jax.random.normal(rngs.params(), (e, d, f), jnp.float32) / math.sqrt(d), 'experts', 'embed', 'mlp')
    self.down_proj = param(jax.random.normal(rngs.params(), (e, f, d), jnp.float32) / math.sqrt(f * len(config.pattern)), 'experts', 'mlp', 'embed')

  def __call__(self, x_sd: jax.Array, routing: Routing) -> jax.Array:
    """The weighted sum of each token's experts, [s, d]."""
    weight = lambda stacked: stacked[...].astype(x_sd.dtype)
    return over_experts(self._local, x_sd, routing.experts, routing.weights, weight(self.up_proj), weight(self.down_proj))

  def _local(self, x_sd: jax.Array, experts_sk: jax.Array, weights_sk: jax.Array, up_edf: jax.Array, down_efd: jax.Array) -> jax.Array:
    """`__call__` with the experts given; the rows of an expert that is not among them are no group's, and so zero."""
    tokens, k = experts_sk.shape
    flat = experts_sk.reshape(-1)
    order = jnp.argsort(flat)  # stable: a token's place in its group does not depend on its weight
    sizes = jnp.bincount(flat, length=up_edf.shape[0]).astype(jnp.int32)
    hidden = jnp.square(jax.nn.relu(grouped_matmul(x_sd[order // k], up_edf, sizes, self.implementation)))
    weighted = grouped_matmul(hidden, down_efd, sizes, self.implementation) * weights_sk.reshape(-1)[order, None].astype(x_sd.dtype)
    return jnp.zeros((tokens, weighted.shape[1]), weighted.dtype).at[order // k].add(weighted)


class MoE(nnx.Module):

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    d, latent = config.hidden_size, config.moe_latent_size
    self.gate = Router(config, rngs=rngs)
    self.experts = Experts(config, rngs=rngs)
    self.shared_experts = MLP(config, config.moe_shared_expert_intermediate_size, rngs=rngs)
    self.fc1_latent_proj = nnx.data(Linear(d, latent, ('embed', 'moe_latent'), bias=config.mlp_bias, rngs=rngs) if latent else None)
    self.fc2_latent_proj = nnx.data(Linear(latent, d, ('moe_latent', 'embed'), bias=config.mlp_bias, rngs=rngs) if latent else None)

  def __call__(self, x: jax.Array) -> jax.Array:
    flat = x.reshape(-1, x.shape[-1])
    routing = self.gate(flat)
    inner = flat if self.fc1_latent_proj is None else self.fc1_latent_proj(flat)
    y = self.experts(inner, routing)
    y = y if self.fc2_latent_proj is None else self.fc2_latent_proj(y)
    return y.reshape(x.shape) + self.shared_experts(x)
