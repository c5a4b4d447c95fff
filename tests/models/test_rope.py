"""Rotary positions against complex numbers in float64; places count within segments."""

import jax.numpy as jnp
import numpy as np

from aevo_jax.models.layers.rope import positions, rotate


def by_complex_numbers(x, place, theta):
  """(x[i], x[i + h/2]) as one complex number, times exp(i place theta^(-2i/h)) (2104.09864, eq.
  14).
  """
  h = x.shape[-1]
  turned = (x[..., : h // 2] + 1j * x[..., h // 2 :]) * np.exp(
    1j * place[..., None, None] * theta ** (-2 * np.arange(h // 2) / h)
  )
  return np.concatenate([turned.real, turned.imag], axis=-1)


def test_rotation_is_the_papers():
  rng = np.random.default_rng(0)
  x, place = rng.standard_normal((2, 5, 3, 8)), rng.integers(0, 2000, (2, 5))
  for theta in (100.0, 1e6):
    np.testing.assert_allclose(
      rotate(jnp.asarray(x, jnp.float32), jnp.asarray(place), theta),
      by_complex_numbers(x, place, theta),
      rtol=0,
      atol=2e-3,
    )
    near = place % 8
    np.testing.assert_allclose(
      rotate(jnp.asarray(x, jnp.float32), jnp.asarray(near), theta),
      by_complex_numbers(x, near, theta),
      rtol=0,
      atol=5e-6,
    )


def test_scores_depend_on_the_distance_only():
  q, k = (
    jnp.asarray(np.random.default_rng(seed).standard_normal((1, 1, 1, 16)), jnp.float32)
    for seed in (1, 2)
  )

  def score(i, j):
    return float(jnp.sum(rotate(q, jnp.asarray([[i]]), 1e4) * rotate(k, jnp.asarray([[j]]), 1e4)))

  assert abs(score(7, 3) - score(104, 100)) < 1e-4 and abs(score(7, 3) - score(7, 4)) > 1e-2


def test_places_count_within_segments():
  segments = jnp.asarray([[1, 1, 1, 2, 3, 3, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1]])
  np.testing.assert_array_equal(
    positions(segments), [[0, 1, 2, 0, 0, 1, 0, 1], [0, 1, 2, 0, 1, 2, 3, 4]]
  )


def test_bfloat16_is_rotated_in_float32():
  """Angles in bfloat16 would be wrong by turns: it knows 1000 and 1004, and nothing between."""
  x, place = (
    np.random.default_rng(0).standard_normal((1, 1, 1, 8)).astype(np.float32),
    np.asarray([[1003]]),
  )
  x = np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)
  turned = rotate(jnp.asarray(x, jnp.bfloat16), jnp.asarray(place), 1e4)
  assert turned.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.asarray(turned, np.float64), by_complex_numbers(x, place, 1e4), rtol=0, atol=0.02
  )
