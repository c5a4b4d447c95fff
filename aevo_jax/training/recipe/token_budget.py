"""How a trial's budget of tokens is divided among what a recipe trains by.

A budget is in tokens of supervised fine-tuning, each a pass forward and a pass backward through the
model: 6 operations for each parameter, where a pass forward alone is 2. So a token that is
generated counts a third, one whose log-probability is asked for a third, and one that is trained on
counts 1 (`step_tokens`). What is generated counts at its full length.
"""

import math
from typing import NamedTuple

import tokenizers

from aevo_jax.data.corpus import Corpus
from aevo_jax.training.recipe.recipe import SECOND, Recipe
from aevo_jax.training.rl import items
from aevo_jax.training.rl.settings import Algorithm

FORWARD = 1 / 3  # of a token that is trained on


class Plan(NamedTuple):
  """Steps of supervised fine-tuning, steps of what follows it or stands in its place, and the
  tokens that the budget is charged for both.
  """

  sft_steps: int
  rl_steps: int
  tokens: int

  @property
  def steps(self) -> int:
    return self.sft_steps + self.rl_steps


def step_tokens(algorithm: Algorithm, prompt: float) -> int:
  """What a step costs, in tokens that are trained on; prompt: tokens of one, on average."""
  a = algorithm
  rows, room = a.rollout.prompts * a.rollout.group_size, a.rollout.max_new_tokens
  batches = a.rollout.max_batches if a.rollout.dynamic_sampling else 1
  generated = (
    FORWARD * batches * (rows * room + a.rollout.prompts * prompt)
  )  # a group shares its prompt
  whole = lambda rows: rows * room + (a.rollout.prompts if a.rl.shared_prefix else rows) * prompt
  described = (
    FORWARD * whole(rows) * (1 + a.needs_reference + a.rl.epochs * (a.distillation is not None))
  )
  trained = a.rl.epochs * whole(rows if a.preference is None else 2 * a.rollout.prompts)
  return math.ceil(generated + described + trained)


def divide(
  recipe: Recipe,
  tokenizer: tokenizers.Tokenizer,
  *,
  size: str,
  seed: int,
  corpus: Corpus = Corpus(),
  tokens: int,
  steps: int,
) -> Plan:
  """The steps that a budget of tokens and steps allows.

  Raises:
    ValueError: the recipe asks for more than the budget, not one step fits, or parts of the
      algorithm cannot go together.
  """
  algorithm, train, share = (
    recipe.algorithm(),
    recipe.train,
    recipe.method.share if recipe.method.name in SECOND else 1.0,
  )
  if algorithm is None:
    sft_steps = train.steps_within(tokens, steps)
    return Plan(sft_steps, 0, sft_steps * train.batch_rows * train.row_length)
  if algorithm.task.name != 'puzzles':
    raise ValueError(
      f'environment.name = {algorithm.task.name!r} has turns of its own, of which a '
      "budget of tokens knows nothing; train it with aevo train, method.name = 'rl' and "
      '--rl_steps'
    )
  if train.steps and not recipe.method.supervised:
    raise ValueError(
      f'train.steps = {train.steps} is read by nothing while method.name = '
      f'{recipe.method.name!r}; leave it out'
    )
  sft_steps = (
    train.steps_within(int(tokens * (1 - share)), int(steps * (1 - share)))
    if recipe.method.supervised
    else 0
  )
  cost = step_tokens(algorithm, items.mean_prompt(recipe.mixture(size), seed, corpus, tokenizer))
  rl_steps = min(int(tokens * share) // cost, int(steps * share))
  if rl_steps < 1:
    raise ValueError(
      f'a step of {algorithm.rollout.prompts} x {algorithm.rollout.group_size} '
      f'completions is charged {cost} tokens, and {int(tokens * share)} tokens and '
      f'{int(steps * share)} steps of the budget are for method.name = '
      f'{recipe.method.name!r}: not one fits; lower rollout.prompts or rollout.group_size'
      + (', or raise method.share' if share < 1 else '')
    )
  return Plan(
    sft_steps, rl_steps, sft_steps * train.batch_rows * train.row_length + rl_steps * cost
  )
