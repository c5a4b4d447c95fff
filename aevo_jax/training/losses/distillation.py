"""On-policy distillation: reverse KL of the student from a teacher, token by token.

The completions are the student's, as in GKD (2306.13649). MiniLLM (2306.08543) takes the reverse KL
of whole sequences instead, by a policy gradient.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import ReadWhen, one_of
from aevo_jax.training.losses.batch import AnyArray, Batch
from aevo_jax.training.tokens.masked import WeightedSum


@configurable('distillation', ReadWhen(one_of('method.name', 'distill')))
@dataclasses.dataclass(frozen=True)
class Distillation:
  """Whom the student learns from.

  Attributes:
    teacher: directory of its checkpoint, any model with the student's tokenizer.
  """

  teacher: str = ''


def reverse_kl(
  student_logits: Float[AnyArray, '*positions vocab'],
  teacher_logits: Float[AnyArray, '*positions vocab'],
) -> Float[Array, '*positions']:
  """Computes KL(student | teacher) of the next-token distributions, in nats.

  It is a sum over the whole vocabulary, so it has not the noise of an estimate.

  Args:
    student_logits: of each position.
    teacher_logits: of the same positions.

  Returns:
    The divergence at each position.
  """
  log_student = jax.nn.log_softmax(student_logits)
  log_teacher = jax.nn.log_softmax(teacher_logits)
  return jnp.sum(jnp.exp(log_student) * (log_student - log_teacher), axis=-1)


def distillation_loss(
  kl_bt: Float[AnyArray, 'batch time'], batch: Batch
) -> tuple[Float[Array, ''], dict[str, WeightedSum]]:
  """Computes the weighted sum of the divergence over tokens.

  Args:
    kl_bt: `reverse_kl` of the distribution that each token was drawn from. Where the mask is 0 it
      may hold NaN.
    batch: mask and weights; the weights of the whole batch add up to 1.

  Returns:
    A scalar that adds up over rows, and the metric kl_teacher, the mean over tokens.
  """
  mask = jnp.asarray(batch['mask'])
  kl = jnp.where(mask > 0, kl_bt, 0)
  metrics = {'kl_teacher': WeightedSum.of(jax.lax.stop_gradient(kl), mask)}
  return jnp.sum(batch['weights'] * kl), metrics
