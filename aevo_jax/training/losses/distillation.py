"""On-policy distillation: reverse KL of the student from a teacher, token by token, on completions
that the student drew (GKD, 2306.13649; MiniLLM, 2306.08543).
"""

import dataclasses

import jax
import jax.numpy as jnp

from aevo_jax.config.configurables import configurable
from aevo_jax.training.masked import WeightedSum


@configurable('distillation')
@dataclasses.dataclass(frozen=True)
class Distillation:
  """teacher: directory of its checkpoint, any model with the student's tokenizer."""

  teacher: str = ''


def reverse_kl(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
  """KL(student | teacher) [...] of the next-token distributions, in nats, from logits [..., v];
  over the whole vocabulary, so without the noise of an estimate.
  """
  log_student, log_teacher = jax.nn.log_softmax(student_logits), jax.nn.log_softmax(teacher_logits)
  return jnp.sum(jnp.exp(log_student) * (log_student - log_teacher), axis=-1)


def distillation_loss(
  kl_bt: jax.Array, batch: dict[str, jax.Array]
) -> tuple[jax.Array, dict[str, WeightedSum]]:
  """Sum over tokens of weights * KL. kl_bt: `reverse_kl` before each token. batch: mask and weights
  [b, t], the weights of the whole batch adding up to 1.
  """
  chosen = batch['mask'] > 0
  kl = jnp.where(chosen, kl_bt, 0)
  return jnp.sum(batch['weights'] * kl), {
    'kl_teacher': WeightedSum.of(jax.lax.stop_gradient(kl), batch['mask'])
  }
