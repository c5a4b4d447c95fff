"""The evaluation sets as the constitution defines them."""

import dataclasses
import hashlib
import hmac
import json
import pathlib
from collections.abc import Sequence

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.nearest import suggestion
from aevo_jax.config.sections import EvalSet
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

TASKS = 'tasks.jsonl'  # tasks of a user, frozen beside a run's constitution
# Configurables that tasks of a user do not read.
PUZZLES_ONLY = (
  'family_weight',
  'rare_share',
  'solution_style',
  'difficulty',
  'answer_shown',
  'answer_withheld',
  'data',
)
_BY_FAMILY = ('family_weight', 'rare_share', 'answer_shown')  # fields of a set: family -> number


def mixture(definition: EvalSet, size: str) -> Mixture:
  """Builds the mixture of a set.

  Args:
    definition: the set; families it does not name keep weight 1 and the default share of rare
      kinds.
    size: 'micro' or 'standard'.

  Returns:
    The mixture. Raises ValueError where the set names a family that does not exist.
  """
  for field in _BY_FAMILY:
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
  """Reads a user's tasks.

  Args:
    constitution: names their verifier and their digest.
    path: a file or a folder.

  Returns:
    The tasks, None where the constitution has puzzles.

  Raises:
    UnknownVerifierError: see `verify.named`.
    TaskFileError: they cannot be read, or are not those with the constitution's digest.
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
  """Checks that all three sets can be drawn from a user's tasks.

  Args:
    constitution: may set nothing that only puzzles have.
    tasks: the user's.
    secret: the arbiter's.

  Raises:
    TaskFileError: naming the set or the binding, and the fix.
  """
  for split in ('dev', 'external', 'final'):
    _check_no_puzzle_fields(split, getattr(constitution, f'{split}_set'))
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


def _check_no_puzzle_fields(split: str, definition: EvalSet) -> None:
  for field in _BY_FAMILY:
    if getattr(definition, field):
      raise TaskFileError(
        f'{split}_set.{field} is of the puzzles, and tasks.path names tasks of '
        f'your own, whose families have their share of the lines; set it to {{}}'
      )


def dev_items(constitution: Constitution, tasks: OwnTasks | None = None) -> list[Item]:
  """Draws the dev set, which anyone can.

  Args:
    constitution: defines the set.
    tasks: a user's, None for puzzles.

  Returns:
    Its items, always the same ones.
  """
  dev = constitution.dev_set
  if tasks is not None:
    return tasks.sample('dev', dev.items, dev.seed)
  return sample_set(dev.seed, 'dev', dev.items, mixture(dev, constitution.objective.size))


def private_items(
  constitution: Constitution, split: str, secret: bytes, tasks: OwnTasks | None = None
) -> list[Item]:
  """Draws a private set, with a key of its own.

  Args:
    constitution: defines the set.
    split: 'external' or 'final'.
    secret: the arbiter's.
    tasks: a user's, None for puzzles.

  Returns:
    Its items, the same ones for the same secret.
  """
  definition = {'external': constitution.external_set, 'final': constitution.final_set}[split]
  key = hmac.digest(secret, split.encode(), 'sha256')
  if tasks is not None:
    return tasks.sample(split, definition.items, key, secret)
  region = split
  # Without an external target candidates are chosen by probes, so the final keeps to rules that no
  # probe asks.
  if split == 'final' and constitution.objective.target == 'proxies':
    region = 'fresh'
  return sample_set(
    key, region, definition.items, mixture(definition, constitution.objective.size), secret
  )


def commitment(secret: bytes) -> str:
  """Returns what the constitution holds of the secret before it is revealed: a SHA-256 digest."""
  return hashlib.sha256(b'aevo-holdout|' + secret).hexdigest()


def items_digest(items: Sequence[Item]) -> str:
  """Returns the SHA-256 digest over all fields of all items, in order."""
  return hashlib.sha256(json.dumps([dataclasses.astuple(i) for i in items]).encode()).hexdigest()
