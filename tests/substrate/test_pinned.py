"""The committed manifest is that of the committed substrate; otherwise no campaign starts."""

import json
import pathlib

from aevo_jax import layout
from aevo_jax.config import constitution
from aevo_jax.config.statements import parse_statements
from aevo_jax.substrate import build, manifest


def test_the_checkout_is_the_pinned_substrate():
  root = layout.root_file('substrate')
  measured = build.measure(root, pathlib.Path(layout.__file__).resolve().parent.parent)
  assert manifest.check(manifest.read(root / build.MANIFEST), measured) == [], (
    'review, then: aevo substrate pin'
  )


def test_the_starting_recipe_is_the_best_of_the_grid():
  root = layout.root_file('substrate')
  runs = [
    r for r in json.loads((root / 'grid.json').read_text())['runs'].values() if 'accuracy' in r
  ]
  best = max(runs, key=lambda r: r['accuracy'])['overlay']
  recipe = {b.selector: b.value for b in parse_statements((root / 'recipe.gin').read_text())}
  assert (
    len(runs) >= 12
    and best['optimizer.learning_rate'] == recipe['optimizer.learning_rate']
    and best['train.batch_rows'] == recipe['train.batch_rows']
  )
  budget = next(
    b.value
    for b in parse_statements(
      layout.root_file('constitution.gin').read_text(), max_bytes=constitution.MAX_BYTES
    )
    if b.selector == 'budget.trial_tokens'
  )
  assert (
    best['train.steps'] * best['train.batch_rows'] * recipe['train.row_length'] == budget
  )  # what train.steps = 0 runs
