"""The token budget of a trial, divided among the methods that a recipe trains by.

A budget is in tokens of supervised fine-tuning, each a pass forward and a pass backward through the
model: 6 operations for each parameter, where a pass forward alone is 2. So a token that is
generated counts a third, one whose log-probability is computed counts a third, and one that is
trained on counts 1 (`step_tokens`). What is generated counts at its full length.
"""

import math
from typing import NamedTuple

import tokenizers

from aevo_jax.training.recipe.recipe import SECOND, Recipe
from aevo_jax.training.recipe.rl_settings import Algorithm
from aevo_jax.training.recipe.task_source import TaskSource
from aevo_jax.training.rl import items

FORWARD = 1 / 3  # of a token that is trained on


class StepPlan(NamedTuple):
  """Steps of a trial.

  sft_steps: of supervised fine-tuning.
  rl_steps: of what follows it or stands in its place.
  tokens: that the budget is charged for both.
  """

  sft_steps: int
  rl_steps: int
  tokens: int

  @property
  def steps(self) -> int:
    """Steps of both methods."""
    return self.sft_steps + self.rl_steps


def step_tokens(algorithm: Algorithm, prompt: float) -> int:
  """Computes what a step of reinforcement learning costs, in tokens that are trained on.

  Args:
    algorithm: sizes of rollouts and passes over them.
    prompt: mean length of a prompt in tokens.
  """
  rollout = algorithm.rollout
  prompts = rollout.prompts
  rows = prompts * rollout.group_size
  batches = rollout.max_batches if rollout.dynamic_sampling else 1
  # A group shares its prompt.
  generated = FORWARD * batches * (rows * rollout.max_new_tokens + prompts * prompt)

  def passed(rows: int) -> float:
    """Tokens that go through the model when `rows` completions are trained on."""
    read_prompts = prompts if algorithm.rl.shared_prefix else rows
    return rows * rollout.max_new_tokens + read_prompts * prompt

  epochs = algorithm.rl.epochs
  has_teacher = algorithm.distillation is not None
  forward_passes = 1 + algorithm.needs_reference + epochs * has_teacher
  scored = FORWARD * passed(rows) * forward_passes
  trained = epochs * passed(rows if algorithm.preference is None else 2 * prompts)
  return math.ceil(generated + scored + trained)


def plan_steps(
  recipe: Recipe,
  tokenizer: tokenizers.Tokenizer,
  tasks: TaskSource,
  *,
  tokens: int,
  steps: int,
) -> StepPlan:
  """Computes the steps that a budget of tokens and steps allows.

  Args:
    recipe: names the methods, and the second one's share of the budget.
    tokenizer: measures prompts.
    tasks: where prompts come from.
    tokens: budget of the whole trial.
    steps: budget of the whole trial.

  Returns:
    The plan.

  Raises:
    ValueError: the recipe asks for more than the budget, not one step fits, or parts of the
      algorithm cannot go together.
  """
  algorithm = recipe.algorithm()
  train = recipe.train
  if algorithm is None:
    sft_steps = train.steps_within(tokens, steps)
    return StepPlan(sft_steps, 0, sft_steps * train.batch_rows * train.row_length)
  _refuse_unplanned(recipe, algorithm)
  share = recipe.method.share if recipe.method.name in SECOND else 1.0
  sft_steps = 0
  if recipe.method.supervised:
    sft_steps = train.steps_within(int(tokens * (1 - share)), int(steps * (1 - share)))
  prompt = items.mean_prompt(recipe.mixture(tasks.size), tasks.seed, tasks.corpus, tokenizer)
  cost = step_tokens(algorithm, prompt)
  rl_steps = min(int(tokens * share) // cost, int(steps * share))
  if rl_steps < 1:
    hint = ', or raise method.share' if share < 1 else ''
    raise ValueError(
      f'a step of {algorithm.rollout.prompts} x {algorithm.rollout.group_size} '
      f'completions is charged {cost} tokens, and {int(tokens * share)} tokens and '
      f'{int(steps * share)} steps of the budget are for method.name = '
      f'{recipe.method.name!r}: not one fits; lower rollout.prompts or rollout.group_size{hint}'
    )
  charged = sft_steps * train.batch_rows * train.row_length + rl_steps * cost
  return StepPlan(sft_steps, rl_steps, charged)


def _refuse_unplanned(recipe: Recipe, algorithm: Algorithm) -> None:
  """Raises ValueError for what a budget of tokens cannot plan, and for steps that nothing reads."""
  if algorithm.task.name != 'puzzles':
    raise ValueError(
      f'environment.name = {algorithm.task.name!r} has turns of its own, of which a '
      "budget of tokens knows nothing; train it with aevo train, method.name = 'rl' and "
      '--rl_steps'
    )
  if recipe.train.steps and not recipe.method.supervised:
    raise ValueError(
      f'train.steps = {recipe.train.steps} is read by nothing while method.name = '
      f'{recipe.method.name!r}; leave it out'
    )
