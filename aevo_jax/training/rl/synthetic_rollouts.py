"""What an algorithm does with rollouts, as a digest over synthetic rollouts.

The digest is of rewards, of advantages and of the loss's gradient. A setting that moves none of
them acts on nothing. Where a step updates once, with rollouts of the very weights, the ratios are
1. There the clip and the kind of ratio act on nothing, and the digest says so.
"""

import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aevo_jax.training.losses.distillation import distillation_loss
from aevo_jax.training.losses.policy_gradient import aggregation_weights, policy_gradient_loss
from aevo_jax.training.losses.preference import dpo_loss
from aevo_jax.training.losses.value import value_loss
from aevo_jax.training.recipe.rl_settings import Algorithm
from aevo_jax.training.rl.rollouts import pairs, rewards, rollouts
from aevo_jax.training.rl.rollouts.environment import Action
from aevo_jax.training.rl.rollouts.rollouts import Batch, Sample
from aevo_jax.training.rl.token_advantages import loss_inputs

GROUPS = 32
MEMBERS = 8
LONGEST = 30


class Answer(NamedTuple):
  """A completion and the task that it answers. ended: by the end token."""

  text: str
  ended: bool
  family: str
  key: str


# Right; right within a tolerance; right beside another box; wrong; without a box; cut off.
ANSWERS = (
  Answer('\\boxed{12.50}', True, 'unit_conversion', '12.50'),
  Answer('so \\boxed{12.505}', True, 'unit_conversion', '12.50'),
  Answer('\\boxed{1} \\boxed{XIV}', True, 'numeral_conversion', 'XIV'),
  Answer('\\boxed{XV}', True, 'numeral_conversion', 'XIV'),
  Answer('XIV', True, 'numeral_conversion', 'XIV'),
  Answer('\\boxed{0101}', True, 'bit_manipulation', '0101'),
  Answer('\\boxed{101}', True, 'bit_manipulation', '0101'),
  Answer('\\boxed{0101', False, 'bit_manipulation', '0101'),
)


class ModelOutputs(NamedTuple):
  """What a model would give for the tokens of a batch, [rows, time] each."""

  logprobs: np.ndarray
  entropy: np.ndarray
  values: np.ndarray


def _samples(algorithm: Algorithm, rng: np.random.Generator) -> list[Sample]:
  """Draws the completions of all groups, with their rewards."""
  room = algorithm.rollout.max_new_tokens
  members = min(MEMBERS, algorithm.rollout.group_size)
  samples = []
  for group in range(GROUPS):
    for member in range(members):
      answer = ANSWERS[rng.integers(len(ANSWERS))]
      length = int(rng.integers(1, LONGEST))
      action = Action(answer.text, max(1, round(room * length / LONGEST)), answer.ended)
      reward = rewards.parts(
        action, answer.family, answer.key, max_new_tokens=room, settings=algorithm.reward
      )
      samples.append(
        Sample(
          group=group,
          member=member,
          version=0,
          family=answer.family,
          tokens=(1,) * (2 + length),
          turns=(-1, -1) + (0,) * length,
          logprobs=(0.0,) * (2 + length),
          rewards=(reward,),
          finish='end',
          text=answer.text,
        )
      )
  return samples


def _model_outputs(
  algorithm: Algorithm, arrays: dict[str, np.ndarray], rng: np.random.Generator
) -> ModelOutputs:
  """Draws what models give for the batch, and adds what is known before an update to `arrays`."""
  shape = arrays['mask'].shape
  logprobs = np.asarray(-rng.exponential(1.0, shape), np.float32)

  def noise(scale: float) -> np.ndarray:
    return np.asarray(rng.normal(0, scale, shape), np.float32)

  updates = algorithm.rl.epochs * algorithm.rl.minibatches
  moved = updates > 1 or algorithm.rollout.asynchronous
  old = logprobs + noise(0.7) * moved
  arrays['old_logprobs'] = old
  arrays['sampler_logprobs'] = old + noise(0.7)
  arrays['ref_logprobs'] = logprobs + noise(0.5)
  arrays['old_values'] = noise(0.5)
  entropy = np.abs(noise(1.0))
  return ModelOutputs(logprobs, entropy, noise(0.5))


def digest(algorithm: Algorithm) -> str:
  """Digests what an algorithm makes of synthetic rollouts.

  Args:
    algorithm: any.

  Returns:
    SHA-256 of the rewards' totals, of the loss and of its gradient by log-probabilities, entropies
    and values.
  """
  rng = np.random.default_rng(0)
  samples = _samples(algorithm, rng)
  arrays = rollouts.arrays(samples, len(samples))
  outputs = _model_outputs(algorithm, arrays, rng)
  totals = np.array([rewards.total(s.parts, algorithm.reward) for s in samples])
  state = hashlib.sha256(totals.tobytes())
  batch = Batch(tuple(samples), arrays, {})
  if algorithm.preference is not None:
    leaves = _preference_leaves(algorithm, batch, outputs)
  elif algorithm.distillation is not None:
    leaves = _distillation_leaves(algorithm, batch, outputs)
  else:
    leaves = _policy_gradient_leaves(algorithm, batch, outputs)
  for leaf in jax.tree.leaves(leaves):
    state.update(leaf.encode() if isinstance(leaf, str) else np.asarray(leaf).tobytes())
  return state.hexdigest()


def _preference_leaves(algorithm: Algorithm, batch: Batch, outputs: ModelOutputs) -> Any:
  preference = algorithm.preference
  assert preference is not None
  pair_rows = pairs.rows(pairs.of_rollouts(batch.samples, algorithm.reward), GROUPS)
  part = {name: batch.arrays[name][pair_rows.rows] for name in ('mask', 'ref_logprobs')}
  part['pair_weights'] = pair_rows.weights

  def loss(logprobs: jax.Array) -> jax.Array:
    return dpo_loss(logprobs, part, preference)[0]

  return jax.value_and_grad(loss)(outputs.logprobs[pair_rows.rows])


def _distillation_leaves(algorithm: Algorithm, batch: Batch, outputs: ModelOutputs) -> Any:
  """Has the teacher's name in front, since no synthetic rollout depends on it."""
  distillation = algorithm.distillation
  assert distillation is not None
  mask = batch.arrays['mask']
  part = {'mask': mask, 'weights': aggregation_weights(mask, algorithm.loss)}

  def loss(kl: jax.Array) -> jax.Array:
    return distillation_loss(kl, part)[0]

  return distillation.teacher, jax.value_and_grad(loss)(jnp.abs(outputs.logprobs))


def _policy_gradient_leaves(algorithm: Algorithm, batch: Batch, outputs: ModelOutputs) -> Any:
  part = loss_inputs(batch, algorithm).arrays
  part['weights'] = aggregation_weights(part['mask'], algorithm.loss)

  def loss(logprobs: jax.Array, entropy: jax.Array, values: jax.Array) -> jax.Array:
    value = policy_gradient_loss(logprobs, entropy, part, algorithm.loss)[0]
    if algorithm.advantage.kind != 'gae':
      return value
    return value + algorithm.critic.coefficient * value_loss(values, part, algorithm.critic)

  return jax.value_and_grad(loss, argnums=(0, 1, 2))(
    jnp.asarray(outputs.logprobs), jnp.asarray(outputs.entropy), jnp.asarray(outputs.values)
  )
