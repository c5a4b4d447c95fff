"""The evaluation sets as the constitution defines them."""

import dataclasses
import hashlib
import hmac
import json
from collections.abc import Sequence

from aevo_jax.config.constitution import Constitution, EvalSet
from aevo_jax.config.nearest import suggestion
from aevo_jax.tasks.item import Difficulty, Item
from aevo_jax.tasks.mixture import FAMILIES, FamilyWeights, Mixture, RareKindShare, draw_set


def mixture(definition: EvalSet, size: str) -> Mixture:
  """The mixture of a set; families it does not name keep weight 1 and the default share of rare kinds."""
  for field in ('family_weight', 'rare_share'):
    for name in getattr(definition, field):
      if name not in FAMILIES:
        raise ValueError(f'{field} names no family {name!r}' + suggestion(name, FAMILIES))
  return Mixture(size, FamilyWeights(**definition.family_weight), RareKindShare(**definition.rare_share),
                 Difficulty(definition.magnitude, definition.extra_examples))


def dev_items(constitution: Constitution) -> list[Item]:
  """The dev set: anyone can draw it."""
  dev = constitution.dev_set
  return draw_set(dev.seed, 'dev', dev.items, mixture(dev, constitution.objective.size))


def private_items(constitution: Constitution, split: str, secret: bytes) -> list[Item]:
  """The 'external' or 'final' set; `secret` is the arbiter's, and each set is drawn with a key of its own."""
  definition = {'external': constitution.external_set, 'final': constitution.final_set}[split]
  key = hmac.digest(secret, split.encode(), 'sha256')
  return draw_set(key, split, definition.items, mixture(definition, constitution.objective.size), secret)


def commitment(secret: bytes) -> str:
  """What the constitution holds of the secret before it is revealed."""
  return hashlib.sha256(b'aevo-holdout|' + secret).hexdigest()


def items_digest(items: Sequence[Item]) -> str:
  """SHA-256 over all fields of all items, in order."""
  return hashlib.sha256(json.dumps([dataclasses.astuple(i) for i in items]).encode()).hexdigest()
