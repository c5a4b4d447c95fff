"""What an algorithm does with rollouts, as a digest: rewards, advantages and the loss's gradient of
made-up completions. A setting that moves none of them acts on nothing.

Where a step updates once, with rollouts of the very weights, the specimens' ratios are 1: there the
clip and the kind of ratio act on nothing, and the digest says so.
"""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from aevo_jax.training.losses.distillation import distillation_loss
from aevo_jax.training.losses.policy_gradient import (
  aggregation_weights,
  policy_gradient_loss,
  value_loss,
)
from aevo_jax.training.losses.preference import dpo_loss
from aevo_jax.training.rl import pairs, rewards, rollouts
from aevo_jax.training.rl.loop import trained_on
from aevo_jax.training.rl.settings import Algorithm

GROUPS, MEMBERS, LONGEST = 32, 8, 30
# text, whether it ended, the family and the right answer: right, right within a tolerance, right
# beside another box, wrong, without a box, cut off
ANSWERS = (
  ('\\boxed{12.50}', True, 'unit_conversion', '12.50'),
  ('so \\boxed{12.505}', True, 'unit_conversion', '12.50'),
  ('\\boxed{1} \\boxed{XIV}', True, 'numeral_conversion', 'XIV'),
  ('\\boxed{XV}', True, 'numeral_conversion', 'XIV'),
  ('XIV', True, 'numeral_conversion', 'XIV'),
  ('\\boxed{0101}', True, 'bit_manipulation', '0101'),
  ('\\boxed{101}', True, 'bit_manipulation', '0101'),
  ('\\boxed{0101', False, 'bit_manipulation', '0101'),
)


def _samples(algorithm: Algorithm, rng: np.random.Generator) -> list[rollouts.Sample]:
  room, members = algorithm.rollout.max_new_tokens, min(MEMBERS, algorithm.rollout.group_size)
  made = []
  for group in range(GROUPS):
    for member in range(members):
      text, ended, family, key = ANSWERS[rng.integers(len(ANSWERS))]
      drawn = int(rng.integers(1, LONGEST))
      earned = rewards.parts(
        text,
        family,
        key,
        tokens=max(1, round(room * drawn / LONGEST)),
        max_new_tokens=room,
        ended=ended,
        settings=algorithm.reward,
      )
      made.append(
        rollouts.Sample(
          group,
          member,
          0,
          family,
          (1,) * (2 + drawn),
          (-1, -1) + (0,) * drawn,
          (0.0,) * (2 + drawn),
          (earned,),
          'end',
          text,
        )
      )
  return made


def digest(algorithm: Algorithm) -> str:
  """SHA-256 of totals of rewards, of what `loop.trained_on` makes of them, and of the loss with its
  gradient by log-probabilities, entropies and values.
  """
  a, rng = algorithm, np.random.default_rng(0)
  samples = _samples(a, rng)
  arrays = rollouts.arrays(samples, len(samples))
  shape = arrays['mask'].shape
  logprobs = np.asarray(-rng.exponential(1.0, shape), np.float32)
  spread = lambda scale: np.asarray(rng.normal(0, scale, shape), np.float32)
  moved = a.rl.epochs * a.rl.minibatches > 1 or a.rollout.asynchronous
  old = logprobs + spread(0.7) * moved
  arrays |= {
    'old_logprobs': old,
    'sampler_logprobs': old + spread(0.7),
    'ref_logprobs': logprobs + spread(0.5),
    'old_values': spread(0.5),
  }
  entropy, values = np.abs(spread(1.0)), spread(0.5)
  state = hashlib.sha256(np.array([rewards.total(s.parts, a.reward) for s in samples]).tobytes())
  if a.preference is not None:
    rows, weights = pairs.rows(pairs.of_rollouts(samples, a.reward), GROUPS)
    part = {name: arrays[name][rows] for name in ('mask', 'ref_logprobs')} | {
      'pair_weights': weights
    }
    found = jax.value_and_grad(lambda x: dpo_loss(x, part, a.preference)[0])(logprobs[rows])
  elif a.distillation is not None:
    part = {'mask': arrays['mask'], 'weights': aggregation_weights(arrays['mask'], a.loss)}
    found = (
      a.distillation.teacher,
      jax.value_and_grad(lambda x: distillation_loss(x, part)[0])(jnp.abs(logprobs)),
    )
  else:
    part, _ = trained_on(rollouts.Batch(tuple(samples), arrays, {}), a)
    part['weights'] = aggregation_weights(part['mask'], a.loss)

    def loss(logprobs, entropy, values):
      value = policy_gradient_loss(logprobs, entropy, part, a.loss)[0]
      return (
        value + a.critic.coefficient * value_loss(values, part, a.critic.clip)
        if a.advantage.kind == 'gae'
        else value
      )

    found = jax.value_and_grad(loss, argnums=(0, 1, 2))(
      jnp.asarray(logprobs), jnp.asarray(entropy), jnp.asarray(values)
    )
  for leaf in jax.tree.leaves(found):
    state.update(leaf.encode() if isinstance(leaf, str) else np.asarray(leaf).tobytes())
  return state.hexdigest()
