"""Mixture of experts.

Nemotron-H has a sigmoid router, ungated experts, optionally in a latent space, and one shared
expert; Qwen3 a softmax router and gated experts. Nemotron-H's routing is DeepSeek-V3's (2412.19437,
section 2.1.2): a bias, which no gradient moves, decides with the score which experts are chosen;
the weights come from the scores alone. Qwen3's scores are a softmax over all experts, without a
bias. Every token reaches all of its experts (nothing is dropped): tokens are sorted by expert and
multiplied group by group.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.kernels.grouped_matmul import grouped_matmul
from aevo_jax.models.layers.linear import Linear
from aevo_jax.models.layers.mlp import MLP, activate
from aevo_jax.models.layers.parameter import param
from aevo_jax.sharding.by_token import flatten, over_tokens, unflatten
from aevo_jax.sharding.context import ExpertTokens, cast_weight, over_experts


class Routing(NamedTuple):
  """The k experts of each of s tokens.

  Attributes:
    experts: [s, k] int32.
    weights: [s, k] float32.
  """

  experts: Array
  weights: Array


class Router(nnx.Module):
  """Scores experts, in float32 whatever the activations are."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.config = config
    shape = (config.hidden_size, config.n_routed_experts)
    normal = jax.random.normal(rngs.params(), shape, jnp.float32)
    self.kernel = param(normal / math.sqrt(config.hidden_size), 'embed', 'experts')
    self.e_score_correction_bias = nnx.data(None)
    if config.router == 'sigmoid':
      bias = param(jnp.zeros(config.n_routed_experts, jnp.float32), 'experts')
      self.e_score_correction_bias = nnx.data(bias)

  def __call__(self, x_sd: Float[Array, 'tokens width']) -> Routing:
    """Chooses each token's experts.

    Args:
      x_sd: normed activations.

    Returns:
      The chosen experts, best first, and the weights of their outputs.
    """
    c = self.config
    logits = x_sd.astype(jnp.float32) @ self.kernel[...].astype(jnp.float32)
    if c.router == 'sigmoid':
      scores = jax.nn.sigmoid(logits)
    else:
      scores = jax.nn.softmax(logits)
    choice = scores
    if self.e_score_correction_bias is not None:
      choice = scores + jax.lax.stop_gradient(self.e_score_correction_bias[...])[None]
    experts = over_tokens(self._best, choice)
    weights = jnp.take_along_axis(scores, experts, axis=1)
    if c.norm_topk_prob:
      weights = weights / (weights.sum(axis=1, keepdims=True) + 1e-20)
    return Routing(experts, weights * c.routed_scaling_factor)

  def _best(self, choice: Float[Array, 'tokens experts']) -> Int[Array, 'tokens chosen']:
    """Returns the experts with the highest scores, the best first."""
    c = self.config
    if c.topk_group < c.n_group:
      choice = self._within_groups(choice)
    return jax.lax.top_k(choice, c.num_experts_per_tok)[1]

  def _within_groups(
    self, choice: Float[Array, 'tokens experts']
  ) -> Float[Array, 'tokens experts']:
    """Leaves only experts of the best groups; a group counts by its two best experts."""
    c = self.config
    grouped = choice.reshape(-1, c.n_group, c.n_routed_experts // c.n_group)
    best = jax.lax.top_k(grouped, min(2, grouped.shape[-1]))[0].sum(axis=-1)
    chosen = jax.lax.top_k(best, c.topk_group)[1]
    eligible = jnp.any(chosen[..., None] == jnp.arange(c.n_group)[None, None], axis=1)
    return jnp.where(jnp.repeat(eligible, grouped.shape[-1], axis=1), choice, -jnp.inf)


class ExpertAdapter(nnx.Module):
  """LoRA of one stacked weight [e, d, f]: lora_a [e, d, r], lora_b [e, r, f]."""

  def __init__(self):
    self.lora_a: nnx.Param | None = nnx.data(None)
    self.lora_b: nnx.Param | None = nnx.data(None)
    self.lora_scale = 0.0


# The logical axes of each expert's matrices.
_AXES = {
  'up_proj': ('embed', 'mlp'),
  'gate_proj': ('embed', 'mlp'),
  'down_proj': ('mlp', 'embed'),
}


class Experts(nnx.Module):
  """The routed experts' weights: up_proj (and gate_proj) [e, d, f], down_proj [e, f, d].

  Attributes:
    adapters: {'up_proj': ExpertAdapter} once one is attached.
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    e = config.n_routed_experts
    d = config.moe_latent_size or config.hidden_size
    f = config.moe_intermediate_size
    self.implementation = config.moe_implementation
    up = jax.random.normal(rngs.params(), (e, d, f), jnp.float32) / math.sqrt(d)
    self.up_proj = param(up, 'experts', *_AXES['up_proj'])
    down = jax.random.normal(rngs.params(), (e, f, d), jnp.float32)
    down = down / math.sqrt(f * len(config.pattern))
    self.down_proj = param(down, 'experts', *_AXES['down_proj'])
    self.gate_proj = nnx.data(None)
    if config.mlp_activation == 'swiglu':
      gate = jax.random.normal(rngs.params(), (e, d, f), jnp.float32) / math.sqrt(d)
      self.gate_proj = nnx.data(param(gate, 'experts', *_AXES['gate_proj']))
    self.adapters: dict[str, ExpertAdapter] = nnx.data({})

  def __call__(
    self, x_sd: Float[Array, 'tokens width'], routing: Routing
  ) -> Float[Array, 'tokens width']:
    """Sums each token's experts by weight.

    Args:
      x_sd: normed activations, in the latent space if there is one.
      routing: the experts of each token.

    Returns:
      The sums, in the dtype of x_sd.
    """
    stacked = {}
    axes = {}
    for name, (rows, columns) in _AXES.items():
      weight = getattr(self, name)
      if weight is not None:
        stacked[name] = weight
        axes[name] = ('experts', rows, columns)
      adapter = self.adapters.get(name)
      if adapter is not None:
        stacked[f'{name}.lora_a'] = adapter.lora_a
        axes[f'{name}.lora_a'] = ('experts', rows, 'lora_rank')
        stacked[f'{name}.lora_b'] = adapter.lora_b
        axes[f'{name}.lora_b'] = ('experts', 'lora_rank', columns)
    stacked = {name: cast_weight(value[...], x_sd.dtype) for name, value in stacked.items()}
    tokens = ExpertTokens(x_sd, routing.experts, routing.weights)
    return over_experts(self._local, tokens, stacked, axes)

  def _local(
    self, tokens: ExpertTokens, stacked: dict[str, Float[Array, '...']]
  ) -> Float[Array, 'tokens width']:
    """Sums the experts of `stacked`; rows of any other are of no group, and so zero."""
    count, k = tokens.experts_sk.shape
    flat = tokens.experts_sk.reshape(-1)
    # Stable: a token's place in its group does not depend on its weight.
    order = jnp.argsort(flat)
    sizes = jnp.bincount(flat, length=stacked['up_proj'].shape[0]).astype(jnp.int32)
    rows = tokens.x_sd[order // k]
    up = self._project(rows, 'up_proj', stacked, sizes)
    gate = None
    if 'gate_proj' in stacked:
      gate = self._project(rows, 'gate_proj', stacked, sizes)
    down = self._project(activate(up, gate), 'down_proj', stacked, sizes)
    weighted = down * tokens.weights_sk.reshape(-1)[order, None].astype(tokens.x_sd.dtype)
    return jnp.zeros((count, weighted.shape[1]), weighted.dtype).at[order // k].add(weighted)

  def _project(
    self,
    rows: Float[Array, 'rows inputs'],
    name: str,
    stacked: dict[str, Float[Array, '...']],
    sizes: Int[Array, ' experts'],
  ) -> Float[Array, 'rows outputs']:
    """Multiplies rows, sorted by expert, with their experts' matrix and adapter."""
    y = grouped_matmul(rows, stacked[name], sizes, self.implementation)
    adapter = self.adapters.get(name)
    if adapter is None:
      return y
    inner = grouped_matmul(rows, stacked[f'{name}.lora_a'], sizes, self.implementation)
    added = grouped_matmul(inner, stacked[f'{name}.lora_b'], sizes, self.implementation)
    return y + adapter.lora_scale * added


class MoE(nnx.Module):
  """The mixer of an E block: routed experts, in a latent space or not, and a shared one."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    width = config.hidden_size
    latent = config.moe_latent_size
    bias = config.mlp_bias
    self.gate = Router(config, rngs=rngs)
    self.experts = Experts(config, rngs=rngs)
    shared = config.moe_shared_expert_intermediate_size
    self.shared_experts = nnx.data(None)
    if shared:
      self.shared_experts = nnx.data(MLP(config, shared, rngs=rngs))
    self.fc1_latent_proj = nnx.data(None)
    self.fc2_latent_proj = nnx.data(None)
    if latent:
      inwards = Linear(width, latent, ('embed', 'moe_latent'), bias=bias, rngs=rngs)
      self.fc1_latent_proj = nnx.data(inwards)
      outwards = Linear(latent, width, ('moe_latent', 'embed'), bias=bias, rngs=rngs)
      self.fc2_latent_proj = nnx.data(outwards)

  def __call__(self, x: Float[Array, '*lead width']) -> Float[Array, '*lead width']:
    """Applies the experts to each token.

    Args:
      x: normed activations.

    Returns:
      What is added to the residual stream.
    """
    return self._run(x)[0]

  def with_load(
    self, x: Float[Array, '*lead width'], counted: Bool[Array, '*lead']
  ) -> tuple[Float[Array, '*lead width'], Float[Array, ' experts']]:
    """Applies the experts and counts their tokens.

    Args:
      x: normed activations.
      counted: which tokens count.

    Returns:
      What is added to the residual stream, and how many of the tokens that count each expert got,
      float32.
    """
    y, routing = self._run(x)
    if counted.ndim > 1:
      counted = flatten(counted)
    counts = jnp.repeat(counted, routing.experts.shape[1]).astype(jnp.float32)
    experts = jnp.zeros(self.experts.up_proj.shape[0])
    return y, experts.at[routing.experts.reshape(-1)].add(counts)

  def _run(self, x: Float[Array, '*lead width']) -> tuple[Float[Array, '*lead width'], Routing]:
    is_batch = x.ndim > 2  # not one token of each row
    flat = flatten(x) if is_batch else x
    routing = self.gate(flat)
    inner = flat
    if self.fc1_latent_proj is not None:
      inner = self.fc1_latent_proj(flat)
    y = self.experts(inner, routing)
    if self.fc2_latent_proj is not None:
      y = self.fc2_latent_proj(y)
    if is_batch:
      y = unflatten(y, *x.shape[:2])
    if self.shared_experts is not None:
      y = y + self.shared_experts(x)
    return y, routing
