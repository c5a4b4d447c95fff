"""The key of a recipe's compiled training step."""

import dataclasses
import json

from aevo_jax.training.recipe.recipe import Recipe

# The sections of a recipe that the compiled step is built from (`post_train.prepare`,
# `Recipe.train_config`, `optimizer.transformation`).
_SECTIONS = ('adaptation', 'lora', 'loss', 'optimizer', 'train')

# Their fields that are no part of the program: numbers that the step takes as inputs, and what is
# read only outside of it. Every other field is part of the key, a new one too.
_INPUTS = frozenset(
  {
    'loss.reasoning_weight',
    'optimizer.b1',
    'optimizer.b2',
    'optimizer.clip_norm',
    'optimizer.decay_fraction',
    'optimizer.learning_rate',
    'optimizer.schedule',
    'optimizer.warmup_fraction',
    'optimizer.weight_decay',
    'train.packing',
    'train.packing_window',
    'train.steps',
  }
)


def program_key(recipe: Recipe) -> str:
  """Names the compiled training step of a recipe.

  Args:
    recipe: of a trial.

  Returns:
    A text; recipes with equal texts share a program, given one model and one machine.
  """
  by_adapter = recipe.adaptation.method == 'lora'
  key = {}
  for section in _SECTIONS:
    if section == 'lora' and not by_adapter:
      continue
    for field, value in dataclasses.asdict(getattr(recipe, section)).items():
      selector = f'{section}.{field}'
      if selector not in _INPUTS:
        key[selector] = value
  return json.dumps(key, sort_keys=True)
