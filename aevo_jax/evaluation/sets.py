"""The evaluation sets as the constitution defines them."""

import dataclasses
import hashlib
import hmac
import json
import pathlib
from collections.abc import Sequence

from aevo_jax.config.constitution import Constitution, EvalSet
from aevo_jax.config.nearest import suggestion
from aevo_jax.tasks import own_data, verify
from aevo_jax.tasks.item import Difficulty, Item
from aevo_jax.tasks.mixture import (
  FAMILIES,
  AnswerShown,
  FamilyWeights,
  Mixture,
  RareKindShare,
  sample_set,
)
from aevo_jax.tasks.own_data import OwnTasks, TaskFileError

TASKS = 'tasks.jsonl'  # tasks of one's own, frozen beside a run's constitution
PUZZLES_ONLY = (
  'family_weight',
  'rare_share',
  'solution_style',
  'difficulty',
  'answer_shown',
  'answer_withheld',
  'data',
)  # configurables that tasks of one's own do not read


def mixture(definition: EvalSet, size: str) -> Mixture:
  """The mixture of a set; families it does not name keep weight 1 and the default share of rare
  kinds.
  """
  for field in ('family_weight', 'rare_share', 'answer_shown'):
    for name in getattr(definition, field):
      if name not in FAMILIES:
        raise ValueError(f'{field} names no family {name!r}' + suggestion(name, FAMILIES))
  return Mixture(
    size,
    FamilyWeights(**definition.family_weight),
    RareKindShare(**definition.rare_share),
    Difficulty(definition.magnitude, definition.extra_examples),
    AnswerShown(**definition.answer_shown),
  )


def own_tasks(constitution: Constitution, path: pathlib.Path) -> OwnTasks | None:
  """The tasks of one's own that lie at `path`, a file or a folder; None where the constitution has
  puzzles.

  Raises:
    UnknownVerifierError: see `verify.named`. TaskFileError: they cannot be read, or are not those
      with the constitution's digest.
  """
  verify.named(constitution.objective.verifier)
  if not constitution.tasks.path:
    return None
  tasks = own_data.read(path, verifier=constitution.objective.verifier)
  if constitution.tasks.digest not in ('', tasks.digest):
    raise TaskFileError(
      f'{path} holds other tasks (digest {tasks.digest[:12]}) than the constitution names '
      f'({constitution.tasks.digest[:12]}); put the file back, or start another run'
    )
  return tasks


def check_own(constitution: Constitution, tasks: OwnTasks, secret: bytes) -> None:
  """Whether all three sets can be drawn from tasks of one's own, and nothing is set that only
  puzzles have.

  Raises:
    TaskFileError: naming the set or the binding, and the fix.
  """
  for split in ('dev', 'external', 'final'):
    definition = getattr(constitution, f'{split}_set')
    of_puzzles = [
      name for name in ('family_weight', 'rare_share', 'answer_shown') if getattr(definition, name)
    ]
    if of_puzzles:
      raise TaskFileError(
        f'{split}_set.{of_puzzles[0]} is of the puzzles, and tasks.path names tasks of '
        f'your own, whose families have their share of the lines; set it to {{}}'
      )
  for axis in constitution.space().axes:
    for parameter in axis.parameters:
      if parameter.selector.rpartition('.')[0] in PUZZLES_ONLY:
        raise TaskFileError(
          f'search_space.axes: {axis.name!r} varies {parameter.selector}, which is of the '
          'puzzles, and tasks.path names tasks of your own; leave the axis out '
          '(configs/campaigns/own_data.gin has a space without them)'
        )
  dev_items(constitution, tasks)
  for split in ('external', 'final'):
    private_items(constitution, split, secret, tasks)


def dev_items(constitution: Constitution, own: OwnTasks | None = None) -> list[Item]:
  """The dev set, of puzzles or of one's `own` tasks: anyone can draw it."""
  dev = constitution.dev_set
  if own is not None:
    return own.sample('dev', dev.items, dev.seed)
  return sample_set(dev.seed, 'dev', dev.items, mixture(dev, constitution.objective.size))


def private_items(
  constitution: Constitution, split: str, secret: bytes, own: OwnTasks | None = None
) -> list[Item]:
  """The 'external' or 'final' set; `secret` is the arbiter's, and each set is drawn with a key of
  its own.
  """
  definition = {'external': constitution.external_set, 'final': constitution.final_set}[split]
  key = hmac.digest(secret, split.encode(), 'sha256')
  if own is not None:
    return own.sample(split, definition.items, key, secret)
  # Without an external target candidates are chosen by probes, so the final keeps to rules that no
  # probe asks.
  region = 'fresh' if split == 'final' and constitution.objective.target == 'proxies' else split
  return sample_set(
    key, region, definition.items, mixture(definition, constitution.objective.size), secret
  )


def commitment(secret: bytes) -> str:
  """What the constitution holds of the secret before it is revealed."""
  return hashlib.sha256(b'aevo-holdout|' + secret).hexdigest()


def items_digest(items: Sequence[Item]) -> str:
  """SHA-256 over all fields of all items, in order."""
  return hashlib.sha256(json.dumps([dataclasses.astuple(i) for i in items]).encode()).hexdigest()
