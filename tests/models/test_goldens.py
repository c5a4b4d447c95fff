"""Logits and gradients of Hugging Face's Nemotron-H, Qwen3 and Llama, written down by `make parity
PYTEST_ARGS=--write_goldens`, and checked here without torch.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from aevo_jax.models import weights as weights_lib
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import is_router_bias, outline

GOLDENS = sorted((pathlib.Path(__file__).parent / 'goldens').iterdir())


@pytest.mark.parametrize('directory', GOLDENS, ids=lambda path: path.name)
def test_logits_and_gradients_are_the_references(directory):
  config = checkpoint.read_config(directory)
  structure, params = (
    outline(config)[0],
    weights_lib.load(directory / checkpoint.WEIGHTS, config),
  )
  inputs, theirs = (
    load_file(directory / 'inputs.safetensors'),
    load_file(directory / 'outputs.safetensors'),
  )

  def loss(p):
    logits = structure.bind(p)(inputs['tokens'], inputs['mask'])
    return jnp.sum(
      inputs['weights'][..., None]
      * jnp.cos(jnp.arange(logits.shape[-1], dtype=jnp.float32))[None, None]
      * jax.nn.log_softmax(logits)
    ), logits

  grads, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
  at = inputs['mask'].astype(bool)
  np.testing.assert_allclose(
    np.asarray(logits)[at],
    theirs['logits'][at],
    rtol=0,
    atol=2e-4 * np.abs(theirs['logits'][at]).max(),
  )
  gradients = checkpoint.canonical(
    {
      name.removeprefix('grad.'): value
      for name, value in theirs.items()
      if name.startswith('grad.')
    }
  )
  for name in params:
    if is_router_bias(name):
      continue
    gradient = gradients.pop(checkpoint.hf_name(name, config))
    np.testing.assert_allclose(
      checkpoint.to_hf(name, np.asarray(grads[name])),
      gradient,
      rtol=0,
      atol=1e-3 * np.abs(gradient).max(),
      err_msg=name,
    )
  assert not gradients
