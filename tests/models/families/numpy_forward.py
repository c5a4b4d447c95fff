"""Forward passes from stored tensors and config.json alone, in numpy and float64.

They are written from the families' published formulas and know no name or layout of ours. Mamba
blocks and experts are left to the goldens, which transformers itself wrote.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Tensors = Mapping[str, np.ndarray]
Forward = Callable[[Mapping[str, Any], Tensors, np.ndarray], np.ndarray]


def rms_norm(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
  return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon) * weight


def linear(tensors: Tensors, name: str, x: np.ndarray) -> np.ndarray:
  return x @ tensors[f'{name}.weight'].T + tensors.get(f'{name}.bias', 0.0)


def rotated(x_tnh: np.ndarray, theta: float) -> np.ndarray:
  """x cos + rotate_half(x) sin, of positions from 0."""
  t, _, h = x_tnh.shape
  angles = np.outer(np.arange(t), theta ** (-np.arange(0, h, 2) / h))
  angles = np.concatenate([angles, angles], axis=1)[:, None]
  half = np.concatenate([-x_tnh[..., h // 2 :], x_tnh[..., : h // 2]], axis=-1)
  return x_tnh * np.cos(angles) + half * np.sin(angles)


def attention(
  fields: Mapping[str, Any], tensors: Tensors, name: str, x: np.ndarray, epsilon: float
) -> np.ndarray:
  """Causal grouped-query attention; positions, norms, biases and window where they are stored."""
  heads = {}
  for part in 'qkv':
    projected = linear(tensors, f'{name}.{part}_proj', x)
    heads[part] = projected.reshape(len(x), -1, fields['head_dim'])
  for part in 'qk':
    norm = tensors.get(f'{name}.{part}_norm.weight')
    if norm is not None:
      heads[part] = rms_norm(heads[part], norm, epsilon)
    if 'rope_theta' in fields:
      heads[part] = rotated(heads[part], fields['rope_theta'])
  groups = fields['num_attention_heads'] // fields['num_key_value_heads']
  k, v = (np.repeat(heads[part], groups, axis=1) for part in 'kv')
  scores = np.einsum('tnh,snh->nts', heads['q'], k) / np.sqrt(fields['head_dim'])
  distance = np.subtract.outer(np.arange(len(x)), np.arange(len(x)))
  visible = (distance >= 0) & (distance < (fields.get('sliding_window') or len(x)))
  weights = np.exp(np.where(visible, scores, -np.inf))
  weights /= weights.sum(axis=-1, keepdims=True)
  mixed = np.einsum('nts,snh->tnh', weights, v).reshape(len(x), -1)
  return linear(tensors, f'{name}.o_proj', mixed)


def mlp(tensors: Tensors, name: str, x: np.ndarray) -> np.ndarray:
  """SwiGLU where there is a gate, else squared ReLU."""
  up = linear(tensors, f'{name}.up_proj', x)
  if f'{name}.gate_proj.weight' not in tensors:
    return linear(tensors, f'{name}.down_proj', np.maximum(up, 0) ** 2)
  gate = linear(tensors, f'{name}.gate_proj', x)
  return linear(tensors, f'{name}.down_proj', gate / (1 + np.exp(-gate)) * up)


def transformer(fields: Mapping[str, Any], tensors: Tensors, tokens: np.ndarray) -> np.ndarray:
  """Llama and those who spell their layers like it."""
  epsilon = fields['rms_norm_eps']
  embedding = tensors['model.embed_tokens.weight']
  x = embedding[tokens]
  for i in range(fields['num_hidden_layers']):
    layer = f'model.layers.{i}'
    normed = rms_norm(x, tensors[f'{layer}.input_layernorm.weight'], epsilon)
    x = x + attention(fields, tensors, f'{layer}.self_attn', normed, epsilon)
    normed = rms_norm(x, tensors[f'{layer}.post_attention_layernorm.weight'], epsilon)
    x = x + mlp(tensors, f'{layer}.mlp', normed)
  x = rms_norm(x, tensors['model.norm.weight'], epsilon)
  return x @ tensors.get('lm_head.weight', embedding).T


def nemotron_h(fields: Mapping[str, Any], tensors: Tensors, tokens: np.ndarray) -> np.ndarray:
  """Blocks of attention and MLP by hybrid_override_pattern."""
  epsilon = fields['layer_norm_epsilon']
  x = tensors['model.embeddings.weight'][tokens]
  for i, kind in enumerate(fields['hybrid_override_pattern']):
    layer = f'model.layers.{i}'
    normed = rms_norm(x, tensors[f'{layer}.norm.weight'], epsilon)
    if kind == '*':
      x = x + attention(fields, tensors, f'{layer}.mixer', normed, epsilon)
    else:
      x = x + mlp(tensors, f'{layer}.mixer', normed)
  x = rms_norm(x, tensors['model.norm_f.weight'], epsilon)
  return x @ tensors['lm_head.weight'].T
