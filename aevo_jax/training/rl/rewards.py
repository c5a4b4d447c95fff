"""Rewards of completions, part by part."""

from collections.abc import Mapping, Sequence

import numpy as np

from aevo_jax.tasks import verify
from aevo_jax.training.rl.settings import Reward


def parts(
  text: str,
  family: str,
  key: str,
  *,
  tokens: int,
  max_new_tokens: int,
  ended: bool,
  settings: Reward,
) -> dict[str, float]:
  r"""Each part of a completion's reward, before weights.

  Args:
    text: of the completion, without its end token. family, key: of the task. tokens: of the
      completion. ended: whether the model ended it.
  """
  answer = verify.extract_boxed(text)
  over = max(0, tokens - (max_new_tokens - settings.overlong_buffer))
  return {
    'verifiable': float(ended and verify.named(settings.verifier)(family, answer, key)),
    'format': float(
      ended and text.count('\\boxed{') == 1 and text.rstrip().endswith('}') and answer is not None
    ),
    'length': 1 - tokens / max_new_tokens,
    'overlong': -min(1.0, over / settings.overlong_buffer),
  }


def total(parts: Mapping[str, float], settings: Reward) -> float:
  """The weighted sum."""
  return sum(settings.weights()[name] * value for name, value in parts.items())


def summary(batch: Sequence[Mapping[str, float]], settings: Reward) -> dict[str, float]:
  """Of each part with a weight: reward/NAME, its mean, and reward_share/NAME, its weighted standard
  deviation's share of those of all parts; a part that is constant has share 0.
  """
  weights = {name: w for name, w in settings.weights().items() if w}
  columns = {name: np.array([p.get(name, 0.0) for p in batch]) for name in weights}
  spread = {name: abs(weights[name]) * float(np.ptp(c) and c.std()) for name, c in columns.items()}
  whole = sum(spread.values())
  return {f'reward/{name}': float(c.mean()) for name, c in columns.items()} | {
    f'reward_share/{name}': s / whole if whole else 0.0 for name, s in spread.items()
  }
