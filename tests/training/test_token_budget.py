"""A budget of tokens divided among methods."""

import dataclasses

import pytest

from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.data.corpus import Corpus
from aevo_jax.training.losses.policy_gradient import PolicyGradient
from aevo_jax.training.losses.preference import Dpo
from aevo_jax.training.recipe import token_budget
from aevo_jax.training.recipe.recipe import Method, Recipe, Train
from aevo_jax.training.recipe.rl_settings import Algorithm, Rl, Rollout, Task
from aevo_jax.training.recipe.task_source import TaskSource
from aevo_jax.training.rl import items

TOKENIZER = tokenizers.build()
SMALL = Rollout(prompts=4, group_size=8, max_new_tokens=50)


def divide(recipe, tokens=100_000, steps=1000):
  return token_budget.plan_steps(
    recipe, TOKENIZER, TaskSource('micro', 0), tokens=tokens, steps=steps
  )


@pytest.mark.parametrize(
  ('algorithm', 'expected'),
  [
    (
      Algorithm(rollout=SMALL, rl=Rl(shared_prefix=False)),
      (32 * 50 + 4 * 70) / 3 + 32 * 120 / 3 + 32 * 120,
    ),
    (
      Algorithm(rollout=SMALL, loss=PolicyGradient(kl='k3'), rl=Rl(shared_prefix=False)),
      (32 * 50 + 4 * 70) / 3 + 2 * 32 * 120 / 3 + 32 * 120,
    ),  # log-probabilities of the reference as well
    (Algorithm(rollout=SMALL), (32 * 50 + 4 * 70) / 3 + (32 * 50 + 4 * 70) / 3 + 32 * 50 + 4 * 70),
    (
      Algorithm(rollout=SMALL, rl=Rl(epochs=3, shared_prefix=False)),
      (32 * 50 + 4 * 70) / 3 + 32 * 120 / 3 + 3 * 32 * 120,
    ),
    (
      Algorithm(
        rollout=dataclasses.replace(SMALL, dynamic_sampling=True, max_batches=4),
        rl=Rl(shared_prefix=False),
      ),
      4 * (32 * 50 + 4 * 70) / 3 + 32 * 120 / 3 + 32 * 120,
    ),
    (
      Algorithm(rollout=SMALL, preference=Dpo(), rl=Rl(shared_prefix=False)),
      (32 * 50 + 4 * 70) / 3 + 2 * 32 * 120 / 3 + 8 * 120,
    ),  # one pair of each prompt
  ],
)
def test_a_step_costs_its_passes_forward_and_backward(algorithm, expected):
  assert token_budget.step_tokens(algorithm, prompt=70) == pytest.approx(expected, abs=1)


def test_supervised_fine_tuning_has_the_whole_budget():
  recipe = Recipe(train=Train(batch_rows=4, row_length=128))
  assert (
    divide(recipe)
    == (195, 0, 195 * 512)
    == (recipe.train.steps_within(100_000, 1000), 0, 195 * 512)
  )


@pytest.mark.parametrize('name', ['sft_then_rl', 'sft_then_dpo'])
def test_two_methods_share_a_budget(name):
  recipe = Recipe(
    method=Method(name, share=0.25), train=Train(batch_rows=4, row_length=128), rollout=SMALL
  )
  cost = token_budget.step_tokens(
    recipe.algorithm(), items.mean_prompt(recipe.mixture('micro'), 0, Corpus(), TOKENIZER)
  )
  found = divide(recipe)
  assert found.sft_steps == 75_000 // 512 and found.rl_steps == 25_000 // cost > 1
  assert found.tokens == found.sft_steps * 512 + found.rl_steps * cost <= 100_000
  limited = divide(recipe, steps=8)
  assert (limited.sft_steps, limited.rl_steps) == (6, 2)


def test_alone_it_has_the_whole_budget_too():
  found = divide(Recipe(method=Method('rl'), rollout=SMALL))
  assert found.sft_steps == 0 and found.rl_steps > 10 and found.tokens <= 100_000


@pytest.mark.parametrize(
  ('recipe', 'named'),
  [
    (Recipe(method=Method('sft_then_rl', share=0.01)), 'raise method.share'),
    (
      Recipe(method=Method('rl'), rollout=Rollout(prompts=1024, group_size=64)),
      'lower rollout.prompts',
    ),
    (Recipe(method=Method('rl'), environment=Task('tally')), 'a budget of tokens knows nothing'),
    (Recipe(method=Method('rl'), train=Train(steps=5)), 'train.steps = 5 is read by nothing'),
    (
      Recipe(method=Method('sft_then_dpo', share=0.5), rollout=Rollout(prompts=6)),
      'rl.microbatches',
    ),
  ],
)
def test_what_does_not_fit_is_refused_by_name(recipe, named):
  with pytest.raises(ValueError, match=named):
    divide(recipe)


@pytest.mark.parametrize(
  'bad',
  [
    lambda: Method('grpo'),
    lambda: Method('sft', share=0.3),
    lambda: Method('rl', share=0.3),
    lambda: Method('sft', learning_rate=1e-4),
    lambda: Method('sft_then_rl', share=1.0),
  ],
)
def test_a_share_or_rate_that_nothing_reads_is_refused(bad):
  with pytest.raises(ValueError, match='method'):
    bad()
