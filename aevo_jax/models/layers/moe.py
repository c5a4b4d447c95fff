"""Mixture of experts as Nemotron-H uses it (sigmoid router, ungated experts, optionally in a latent
space, one shared expert) or Qwen3 (softmax router, gated).

Nemotron-H's routing is DeepSeek-V3's (2412.19437, section 2.1.2): a bias, which no gradient moves,
decides with the score which experts are chosen; the weights come from the scores alone. Qwen3's
scores are a softmax over all experts, without a bias. Every token reaches all of its experts
(nothing is dropped): tokens are sorted by expert and multiplied group by group.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.layers.grouped_matmul import grouped_matmul
from aevo_jax.models.layers.linear import MLP, Linear, activate, param
from aevo_jax.sharding.context import over_experts


class Routing(NamedTuple):
  """experts [s, k] int32 and weights [s, k] float32, of s tokens."""

  experts: jax.Array
  weights: jax.Array


class Router(nnx.Module):
  """Scores experts, in float32 whatever the activations are."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.kernel = param(
      jax.random.normal(rngs.params(), (config.hidden_size, config.n_routed_experts), jnp.float32)
      / math.sqrt(config.hidden_size),
      'embed',
      'experts',
    )
    biased = config.router == 'sigmoid'
    self.e_score_correction_bias = nnx.data(
      param(jnp.zeros(config.n_routed_experts, jnp.float32), 'experts') if biased else None
    )

  def __call__(self, x_sd: jax.Array) -> Routing:
    c = self.config
    logits = x_sd.astype(jnp.float32) @ self.kernel[...].astype(jnp.float32)
    scores = jax.nn.sigmoid(logits) if c.router == 'sigmoid' else jax.nn.softmax(logits)
    choice = (
      scores
      if self.e_score_correction_bias is None
      else scores + jax.lax.stop_gradient(self.e_score_correction_bias[...])
    )
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


class ExpertAdapter(nnx.Module):
  """LoRA of one stacked weight [e, d, f]: lora_a [e, d, r], lora_b [e, r, f]."""

  def __init__(self):
    self.lora_a = nnx.data(None)
    self.lora_b = nnx.data(None)
    self.lora_scale = 0.0


_AXES = {
  'up_proj': ('embed', 'mlp'),
  'gate_proj': ('embed', 'mlp'),
  'down_proj': ('mlp', 'embed'),
}  # of each expert's matrices


class Experts(nnx.Module):
  """The routed experts' weights: up_proj (and gate_proj) [e, d, f], down_proj [e, f, d]."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    e, d, f = (
      config.n_routed_experts,
      config.moe_latent_size or config.hidden_size,
      config.moe_intermediate_size,
    )
    self.implementation = config.moe_implementation
    self.up_proj = param(
      jax.random.normal(rngs.params(), (e, d, f), jnp.float32) / math.sqrt(d),
      'experts',
      *_AXES['up_proj'],
    )
    self.down_proj = param(
      jax.random.normal(rngs.params(), (e, f, d), jnp.float32) / math.sqrt(f * len(config.pattern)),
      'experts',
      *_AXES['down_proj'],
    )
    gated = config.mlp_activation == 'swiglu'
    self.gate_proj = nnx.data(
      param(
        jax.random.normal(rngs.params(), (e, d, f), jnp.float32) / math.sqrt(d),
        'experts',
        *_AXES['gate_proj'],
      )
      if gated
      else None
    )
    self.adapters = nnx.data({})  # {'up_proj': ExpertAdapter} once one is attached

  def __call__(self, x_sd: jax.Array, routing: Routing) -> jax.Array:
    """The weighted sum of each token's experts, [s, d]."""
    stacked, axes = {}, {}
    for name, (rows, columns) in _AXES.items():
      if (weight := getattr(self, name)) is not None:
        stacked[name], axes[name] = weight, ('experts', rows, columns)
      if adapter := self.adapters.get(name):
        stacked[f'{name}.lora_a'], axes[f'{name}.lora_a'] = (
          adapter.lora_a,
          ('experts', rows, 'lora_rank'),
        )
        stacked[f'{name}.lora_b'], axes[f'{name}.lora_b'] = (
          adapter.lora_b,
          ('experts', 'lora_rank', columns),
        )
    return over_experts(
      self._local,
      x_sd,
      *routing,
      {name: value[...].astype(x_sd.dtype) for name, value in stacked.items()},
      axes,
    )

  def _local(
    self,
    x_sd: jax.Array,
    experts_sk: jax.Array,
    weights_sk: jax.Array,
    stacked: dict[str, jax.Array],
  ) -> jax.Array:
    """`__call__` with the experts' arrays given; the rows of an expert that is not among them are
    no group's, and so zero.
    """
    tokens, k = experts_sk.shape
    flat = experts_sk.reshape(-1)
    order = jnp.argsort(flat)  # stable: a token's place in its group does not depend on its weight
    sizes = jnp.bincount(flat, length=stacked['up_proj'].shape[0]).astype(jnp.int32)
    product = lambda rows, name: grouped_matmul(rows, stacked[name], sizes, self.implementation)

    def project(rows: jax.Array, name: str) -> jax.Array:
      y, adapter = product(rows, name), self.adapters.get(name)
      return (
        y
        if adapter is None
        else y + adapter.lora_scale * product(product(rows, f'{name}.lora_a'), f'{name}.lora_b')
      )

    rows = x_sd[order // k]
    hidden = activate(
      project(rows, 'up_proj'), project(rows, 'gate_proj') if 'gate_proj' in stacked else None
    )
    weighted = project(hidden, 'down_proj') * weights_sk.reshape(-1)[order, None].astype(x_sd.dtype)
    return jnp.zeros((tokens, weighted.shape[1]), weighted.dtype).at[order // k].add(weighted)


class MoE(nnx.Module):
  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    d, latent = config.hidden_size, config.moe_latent_size
    self.gate = Router(config, rngs=rngs)
    self.experts = Experts(config, rngs=rngs)
    shared = config.moe_shared_expert_intermediate_size
    self.shared_experts = nnx.data(MLP(config, shared, rngs=rngs) if shared else None)
    self.fc1_latent_proj = nnx.data(
      Linear(d, latent, ('embed', 'moe_latent'), bias=config.mlp_bias, rngs=rngs)
      if latent
      else None
    )
    self.fc2_latent_proj = nnx.data(
      Linear(latent, d, ('moe_latent', 'embed'), bias=config.mlp_bias, rngs=rngs)
      if latent
      else None
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    return self._run(x)[0]

  def with_load(self, x: jax.Array, counted: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The output, and how many of the tokens that are `counted` (bool, as x without its last axis)
    each expert got, [e] float32.
    """
    y, routing = self._run(x)
    counts = jnp.repeat(counted.reshape(-1), routing.experts.shape[1]).astype(jnp.float32)
    return y, jnp.zeros(self.experts.up_proj.shape[0]).at[routing.experts.reshape(-1)].add(counts)

  def _run(self, x: jax.Array) -> tuple[jax.Array, Routing]:
    flat = x.reshape(-1, x.shape[-1])
    routing = self.gate(flat)
    inner = flat if self.fc1_latent_proj is None else self.fc1_latent_proj(flat)
    y = self.experts(inner, routing)
    y = y if self.fc2_latent_proj is None else self.fc2_latent_proj(y)
    y = y.reshape(x.shape)
    return y if self.shared_experts is None else y + self.shared_experts(x), routing
