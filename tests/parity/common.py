"""One comparison with the reference for every family: logits, gradients, padding and packing of one
configuration in float32.
"""

import json
import pathlib
import tempfile

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import is_router_bias, unbind

# Of tests over random configurations: the same ones at every run.
REPEATABLE = hypothesis.settings(
  deadline=None,
  derandomize=True,
  phases=[hypothesis.Phase.generate],
  suppress_health_check=list(hypothesis.HealthCheck),
)
GOLDENS = pathlib.Path(__file__).parents[1] / 'models' / 'goldens'


def random_parameters(config: ModelConfig, seed: int):
  """Structure, and parameters none of which is zero or one: a forgotten bias must show."""
  structure, params = unbind(create(config, seed))
  rng = np.random.default_rng(seed)
  return structure, {
    name: jnp.asarray(np.asarray(value) + 0.1 * rng.standard_normal(value.shape), jnp.float32)
    for name, value in params.items()
  }


def rows(seed: int, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
  """tokens, mask [4, 19]: full, padded on the right, on the left, and on both sides; 19 ends inside
  a chunk.

  With biases of mamba's projections nothing is padded on the left: the reference's convolution then
  sees the bias of padded places before a sequence.
  """
  rng = np.random.default_rng(seed)
  mask = np.zeros((4, 19), np.int32)
  for row, (start, end) in enumerate([(0, 19), (0, 11), (7, 19), (3, 14)]):
    mask[row, 0 if config.use_bias else start : end] = 1
  return rng.integers(1, config.vocab_size, mask.shape).astype(np.int32), mask


def ask(reference, directory, config, params, tokens, mask, weights) -> dict[str, np.ndarray]:
  """The reference's answer about a checkpoint that we write."""
  checkpoint.save_weights(directory / checkpoint.WEIGHTS, params, config)
  (directory / checkpoint.CONFIG).write_text(
    json.dumps(checkpoint.config_to_hf(config, eos_token_id=2, pad_token_id=0), indent=1) + '\n'
  )
  return reference(directory, tokens, mask, weights)


def value_and_grad(structure, params, tokens, segment_ids, weights):
  """Logits, and the gradient of the reference's loss."""

  def loss(p):
    logits = structure.bind(p)(tokens, segment_ids)
    return jnp.sum(
      weights[..., None]
      * jnp.cos(jnp.arange(logits.shape[-1], dtype=jnp.float32))
      * jax.nn.log_softmax(logits)
    ), logits

  return jax.jit(jax.grad(loss, has_aux=True))(params)


def assert_close(
  ours: np.ndarray, theirs: np.ndarray, tolerance: float, what: str, floor: float = 0.0
) -> None:
  """Relative to the largest of theirs, which counts as `floor` at least."""
  error, scale = np.abs(ours - theirs).max(), max(np.abs(theirs).max(), floor)
  assert error <= tolerance * scale, f'{what}: {error:.2e} against a scale of {scale:.2e}'


def assert_equal_models(reference, config: ModelConfig, seed: int) -> None:
  """Logits to 2e-4 of their scale, padded on either side and packed, and the gradient with respect
  to every parameter to 1e-3.
  """
  structure, params = random_parameters(config, seed)
  tokens, mask = rows(seed, config)
  weights = np.random.default_rng(seed + 1).standard_normal(mask.shape).astype(np.float32) * mask
  with tempfile.TemporaryDirectory() as name:
    theirs = ask(reference, pathlib.Path(name), config, params, tokens, mask, weights)
  grads, logits = value_and_grad(structure, params, tokens, mask, weights)
  at = mask.astype(bool)
  assert_close(np.asarray(logits)[at], theirs['logits'][at], 2e-4, 'logits')

  # Packed: rows 1 to 3 behind one another, each a segment of its own.
  lengths = mask.sum(axis=1)
  packed = np.concatenate([tokens[i][at[i]] for i in (1, 2, 3)])[None]
  segments = np.repeat([1, 2, 3], lengths[1:])[None]
  together = np.asarray(structure.bind(params)(packed, segments))[0]
  assert_close(
    together, np.concatenate([theirs['logits'][i][at[i]] for i in (1, 2, 3)]), 2e-4, 'packed logits'
  )

  gradients = checkpoint.canonical(
    {
      name.removeprefix('grad.'): value
      for name, value in theirs.items()
      if name.startswith('grad.')
    }
  )
  # A single expert's normalised weight is 1 whatever the router says: where the true gradient is 0,
  # rounding is all there is.
  floor = 1e-3 * max(np.abs(value).max() for value in gradients.values())
  names = {checkpoint.hf_name(name, config): name for name in params}
  for name, ours in names.items():
    if name in gradients:
      assert_close(
        checkpoint.to_hf(ours, np.asarray(grads[ours])),
        gradients.pop(name),
        1e-3,
        f'gradient of {name}',
        floor,
      )
    else:
      assert is_router_bias(name) and not np.any(grads[ours]), (
        f'the reference has no gradient of {name}'
      )
  assert not gradients, f'the reference has parameters {sorted(gradients)}, which we have not'


def assert_golden(
  reference, name: str, config: ModelConfig, write: bool, directory: pathlib.Path
) -> None:
  """The committed golden is what the reference computes; `write` writes it first."""
  directory = GOLDENS / name if write else directory
  directory.mkdir(parents=True, exist_ok=True)
  _, params = random_parameters(config, seed=1)
  tokens, mask = rows(1, config)
  theirs = ask(
    reference,
    directory,
    config,
    params,
    tokens,
    mask,
    np.cos(np.arange(mask.size, dtype=np.float32)).reshape(mask.shape) * mask,
  )
  stored = load_file(GOLDENS / name / 'outputs.safetensors')
  assert stored.keys() == theirs.keys()
  for key, value in theirs.items():
    np.testing.assert_allclose(
      stored[key], value, rtol=0, atol=1e-5 * max(np.abs(value).max(), 1e-3), err_msg=key
    )
