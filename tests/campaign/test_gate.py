"""The gate: what an agent may write, and what is refused with which words."""

import pytest

from aevo_jax import layout
from aevo_jax.campaign.trial.gate import RecipeRefusedError, admit, default_values, full_recipe
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.statements import Binding, parse_statements
from aevo_jax.training.recipe import recipe as recipe_lib

RECIPE = (layout.root_file('substrate') / 'recipe.gin').read_text()


@pytest.fixture(scope='module')
def constitution():
  loading.load([str(layout.root_file('constitution.gin'))], [], search_paths=layout.search_paths())
  return constitution_lib.from_gin()


def test_admitted_text_comes_back_canonical(constitution):
  text = (
    'train.batch_rows = 8\n\n# a comment\noptimizer.learning_rate = 0.00100\ndata.plain_share = 0\n'
  )
  assert admit(text, constitution, RECIPE) == (
    Binding('data.plain_share', 0.0),
    Binding('optimizer.learning_rate', 0.001),
    Binding('train.batch_rows', 8),
  )
  assert admit('', constitution, RECIPE) == ()


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('import os', 'import'),
    ("include '/etc/passwd'", 'include'),
    ('optimizer.learning_rate = @os.getcwd()', 'reference'),
    ('optimizer.learning_rate = %X', 'macro'),
    ('a/optimizer.learning_rate = 1e-3', 'scope'),
    ('optimizer.learning_rate = 1e-3\noptimizer.learning_rate = 2e-3', 'twice|duplicate'),
    ('optimizer.learning_rate = 1e999', 'finite'),
    ('optimizer.learning_rate = 5.0', r'5e-05 to 0\.005'),
    ("optimizer.learning_rate = '1e-3'", 'expects a float'),
    ('train.batch_rows = 5', 'expects one of'),
    ('train.batch_rows = True', 'expects one of'),
    ('optimizer.learning_rat = 1e-3', 'optimizer.learning_rate'),
    ('optimizer.clip_norm = 2.0', 'may not be bound'),
    ('budget.trial_tokens = 1000000', 'may not be bound'),
    ('holdout.commitment = "x"', 'may not be bound'),
    ("objective.verifier = 'challenge'", 'may not be bound'),
    ('train.row_length = 8', 'may not be bound'),
    ('train.batch_rows = ' + '[' * 40 + ']' * 40, 'deep|depth'),
    ('x = ' + '1' * 9000, ''),
    ('оptimizer.learning_rate = 1e-3', ''),  # noqa: RUF001  a Cyrillic o is what is tested
  ],
)
def test_everything_else_is_refused_by_name(constitution, text, message):
  with pytest.raises(RecipeRefusedError, match=f'(?i){message}'):
    admit(text, constitution, RECIPE)


@pytest.mark.parametrize(
  ('bound', 'condition', 'meets'),
  [
    ('lora.rank = 8', 'adaptation.method', "adaptation.method = 'lora'"),
    ("lora.targets = 'all'", 'adaptation.method', "adaptation.method = 'lora'"),
    ('optimizer.decay_fraction = 0.4', 'optimizer.schedule', "optimizer.schedule = 'wsd'"),
  ],
)
def test_a_conditional_binding_out_of_its_condition_is_refused(
  constitution, bound, condition, meets
):
  with pytest.raises(RecipeRefusedError, match=f'only when {condition}'):
    admit(bound, constitution, RECIPE)
  assert len(admit(f'{bound}\n{meets}', constitution, RECIPE)) == 2


def test_all_problems_are_told_at_once(constitution):
  with pytest.raises(RecipeRefusedError) as caught:
    admit(
      'optimizer.learning_rate = 9.0\ntrain.batch_rows = 5\nlora.rank = 4', constitution, RECIPE
    )
  assert all(
    name in str(caught.value)
    for name in ('optimizer.learning_rate', 'train.batch_rows', 'lora.rank')
  )


def test_defaults_are_the_recipe_over_the_dataclasses_and_overlays_go_on_top():
  defaults = default_values(RECIPE)
  assert {b.selector: defaults[b.selector] for b in parse_statements(RECIPE)} == {
    b.selector: b.value for b in parse_statements(RECIPE)
  }
  assert (
    defaults['lora.alpha'] == recipe_lib.Lora().alpha and defaults['adaptation.method'] == 'full'
  )
  merged = {
    b.selector: b.value
    for b in parse_statements(
      full_recipe([Binding('train.batch_rows', 4), Binding('lora.rank', 2)], RECIPE)
    )
  }
  assert merged['train.batch_rows'] == 4 and merged['lora.rank'] == 2
  assert {k: v for k, v in merged.items() if k not in ('train.batch_rows', 'lora.rank')} == {
    b.selector: b.value for b in parse_statements(RECIPE) if b.selector != 'train.batch_rows'
  }


def test_the_whole_space_names_fields_that_exist(constitution):
  assert set(constitution.space().selectors) <= default_values(RECIPE).keys()
