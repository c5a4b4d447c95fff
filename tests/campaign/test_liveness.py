"""Liveness: every knob that agents are offered acts, and one that does not is refused by name."""

import functools
import json
import time

import pytest

from aevo_jax import layout
from aevo_jax.campaign.setup import setup
from aevo_jax.campaign.trial.gate import admit
from aevo_jax.campaign.trial.liveness import DeadBindingError, check_live, value_of, with_values
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.parameter import from_unit, perturb
from aevo_jax.config.search_space import SearchSpace
from aevo_jax.config.statements import Binding, parse_statements, render
from aevo_jax.data import chat_template
from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.data.corpus import Corpus
from aevo_jax.models.config import ModelConfig
from aevo_jax.tasks import own_data
from aevo_jax.training.recipe import recipe as recipe_lib
from aevo_jax.training.recipe.fingerprint import components
from aevo_jax.training.recipe.recipe import Adaptation, Lora, Recipe
from aevo_jax.training.recipe.task_source import TaskSource
from aevo_jax.training.recipe.token_budget import StepPlan

RECIPE = (layout.root_file('substrate') / 'recipe.gin').read_text()
TOKENIZER = tokenizers.build()


@pytest.fixture(scope='module')
def constitution():
  loading.load([str(layout.root_file('constitution.gin'))], [], search_paths=layout.search_paths())
  return constitution_lib.from_gin()


def recipe_of(overlay) -> recipe_lib.Recipe:
  return with_values(
    recipe_lib.Recipe(), {b.selector: b.value for b in (*parse_statements(RECIPE), *overlay)}
  )


def with_value(recipe, selector, value):
  return with_values(recipe, {selector: value})


def live(overlay, space, *, seed=1, tokens=122_880, steps=480):
  return check_live(
    recipe_of(overlay),
    overlay,
    space,
    TOKENIZER,
    TaskSource('micro', seed),
    tokens=tokens,
    steps=steps,
  )


def test_every_parameter_of_the_shipped_space_is_live(constitution, capsys):
  """Each alone, with the conditions that it needs; through the gate first."""
  space, seconds, changed = constitution.space(), [], {}
  for parameter in space.parameters:
    conditions = [Binding(selector, values[0]) for selector, values in parameter.when.items()]
    overlay = admit(
      render([*conditions, Binding(parameter.selector, from_unit(parameter, 0.75))]),
      constitution,
      RECIPE,
    )
    started = time.perf_counter()
    changed[parameter.selector] = live(overlay, space)[parameter.selector]
    seconds.append(time.perf_counter() - started)
  assert changed.keys() == set(space.selectors)
  assert {
    changed[s]
    for s in (
      'family_weight.bit_manipulation',
      'rare_share.text_encryption',
      'difficulty.magnitude',
      'data.plain_share',
    )
  } == {'batches'}
  assert (
    changed['optimizer.learning_rate'] == 'schedule'
    and changed['train.batch_rows'] == 'rows'
    and changed['lora.rank'] == 'state'
    and changed['optimizer.b2'] == 'update'
  )
  with capsys.disabled():
    print(
      f'\nliveness of {len(seconds)} overlays: median '
      f'{sorted(seconds)[len(seconds) // 2]:.2f} s, most {max(seconds):.2f} s'
    )


CONFIGS = sorted(p.name for p in (layout.root_file('configs') / 'campaigns').glob('*.gin'))


@functools.cache
def shipped(name: str):
  """(constitution, what it trains on) of a campaign config."""
  loading.load(
    [str(layout.root_file('constitution.gin')), f'configs/campaigns/{name}'],
    [],
    search_paths=layout.search_paths(),
  )
  constitution = constitution_lib.from_gin()
  if not constitution.tasks.path:
    return constitution, Corpus()
  own = own_data.read(
    setup.tasks_path(constitution.tasks.path), verifier=constitution.objective.verifier
  )
  return constitution, Corpus(
    chat_template.read(str(layout.root_file('substrate') / 'base')), tuple(own.of_split('train'))
  )


def swept() -> dict[str, list]:
  """config -> the parameters that no config before it has swept under the same size and data; every
  parameter of every config is in it or equal to one that is.
  """
  seen, left = (
    {
      json.dumps([p.selector, p.low, p.high, p.choices, p.when, 'micro', '', False])
      for p in shipped('quickstart.gin')[0].space().parameters
    },
    {},
  )
  for name in CONFIGS:
    constitution = shipped(name)[0]
    adapters = bool(constitution.submission.max_rank)
    for p in constitution.space().parameters:
      key = json.dumps(
        [
          p.selector,
          p.low,
          p.high,
          p.choices,
          p.when,
          constitution.objective.size,
          constitution.tasks.path,
          adapters,
        ]
      )
      if key not in seen:
        seen.add(key)
        left.setdefault(name, []).append(p)
  return left


@pytest.mark.parametrize('name', CONFIGS)
def test_every_parameter_of_every_campaign_config_is_live(name):
  """Those of quickstart.gin are swept above; a parameter that several configs share in the same
  setting is swept once. Adapters are trained where they must be.
  """
  constitution, corpus = shipped(name)
  space, starting = (
    constitution.space(),
    "adaptation.method = 'lora'\ntrain.row_length = 512\n"
    if constitution.submission.max_rank
    else '',
  )
  recipe = recipe_of(parse_statements(starting))
  for parameter in swept().get(name, ()):
    value = from_unit(parameter, 0.75)
    if any(
      value == b.value
      for b in (*parse_statements(RECIPE), *parse_statements(starting))
      if b.selector == parameter.selector
    ):
      value = from_unit(parameter, 0.25)
    conditions = [
      Binding(selector, values[0])
      for selector, values in parameter.when.items()
      if value_of(recipe, selector) not in values
    ]
    overlay = (*conditions, Binding(parameter.selector, value))
    moved = with_values(recipe, {b.selector: b.value for b in overlay})
    tokens, steps = 60 * moved.train.batch_rows * moved.train.row_length, 60
    if moved.algorithm():
      tokens, steps = constitution.budget.trial_tokens, constitution.budget.trial_steps
    assert parameter.selector in check_live(
      moved,
      overlay,
      space,
      TOKENIZER,
      TaskSource(constitution.objective.size, 1, corpus),
      tokens=tokens,
      steps=steps,
    )


def test_a_bound_of_a_family_too_rare_for_the_first_items_is_live_by_later_ones(constitution):
  """Bit strings at the least weight among families at the greatest are 1.2% of the items, so 256
  items may hold only one or two.
  """
  weights = [
    Binding(s, 0.25 if s.endswith('bit_manipulation') else 4.0)
    for s in constitution.space().selectors
    if s.startswith('family_weight')
  ]
  recipe = recipe_of([*weights, Binding('rare_share.bit_manipulation', 0.0)])
  moved = with_value(
    recipe,
    'rare_share.bit_manipulation',
    perturb(constitution.space().parameter('rare_share.bit_manipulation'), 0.0),
  )

  def batches(recipe, seed):
    source = TaskSource('micro', seed)
    return components(recipe, TOKENIZER, source, StepPlan(60, 0, 0))['batches']()

  seed = next(seed for seed in range(100) if batches(recipe, seed) == batches(moved, seed))
  only = (Binding('rare_share.bit_manipulation', 0.0),)
  assert check_live(
    recipe,
    only,
    constitution.space(),
    TOKENIZER,
    TaskSource('micro', seed),
    tokens=122_880,
    steps=480,
  ) == {'rare_share.bit_manipulation': 'later_batches'}


@pytest.mark.parametrize(
  ('selector', 'value'), [('lora.rank', 8), ('lora.alpha', 8.0), ('optimizer.decay_fraction', 0.5)]
)
def test_a_knob_that_nothing_reads_is_refused_by_name(selector, value):
  """Offered by an operator's space without its condition, so that the gate lets it through: full
  fine-tuning, a cosine schedule.
  """
  kind = 'int' if type(value) is int else 'float'
  low, high = (2, 32) if kind == 'int' else (0.1, 32.0)
  space = SearchSpace.from_literals(
    {
      'dead': {selector: {'kind': kind, 'low': low, 'high': high}},
      'alive': {
        'optimizer.learning_rate': {'kind': 'float', 'low': 1e-4, 'high': 1e-2, 'scale': 'log'}
      },
    }
  )
  if selector == 'optimizer.decay_fraction':
    space = SearchSpace.from_literals(
      {
        'dead': {selector: {'kind': kind, 'low': 0.1, 'high': 0.9}},
        'alive': {
          'optimizer.learning_rate': {'kind': 'float', 'low': 1e-4, 'high': 1e-2, 'scale': 'log'}
        },
      }
    )
  overlay = (Binding(selector, value), Binding('optimizer.learning_rate', 1e-3))
  with pytest.raises(DeadBindingError, match=selector) as caught:
    live(overlay, space)
  assert 'optimizer.learning_rate' not in str(caught.value)


@pytest.mark.parametrize(('method', 'dead'), [('lora', True), ('full', False)])
def test_adams_moment_is_dead_under_muon_where_every_parameter_is_a_matrix(
  constitution, method, dead
):
  """Adapters are matrices, so Muon's Adam branch holds nothing; its debiasing is in the program all
  the same, and nobody reads it.
  """
  overlay = (
    Binding('adaptation.method', method),
    Binding('optimizer.b2', 0.95),
    Binding('optimizer.name', 'muon'),
  )
  if method == 'full':
    overlay = overlay[1:]
  if dead:
    with pytest.raises(DeadBindingError, match=r'optimizer\.b2'):
      live(overlay, constitution.space())
  else:
    assert live(overlay, constitution.space())['optimizer.b2'] == 'update'


def test_a_value_whose_next_neighbour_means_the_same_or_is_impossible_is_live():
  steps = SearchSpace.from_literals(
    {'length': {'train.steps': {'kind': 'int', 'low': 30, 'high': 480}}}
  )
  recipe = with_value(with_value(recipe_of(()), 'train.batch_rows', 8), 'train.steps', 100)
  overlay = (Binding('train.steps', 100),)
  # 122,880 tokens are 120 steps of 8 rows, and a quarter of the range further is more than that.
  assert check_live(
    recipe, overlay, steps, TOKENIZER, TaskSource('micro', 1), tokens=122_880, steps=480
  ) == {'train.steps': 'rows'}
  style = SearchSpace.from_literals(
    {
      'style': {
        'solution_style.unit_conversion': {'kind': 'choice', 'choices': ['worked', 'steps', 'bare']}
      }
    }
  )
  overlay = (Binding('solution_style.unit_conversion', 'worked'),)
  # In the standard size worked solutions have no intermediate results to add.
  assert check_live(
    recipe_of(overlay),
    overlay,
    style,
    TOKENIZER,
    TaskSource('standard', 1),
    tokens=122_880,
    steps=480,
  ) == {'solution_style.unit_conversion': 'batches'}


def test_with_value_changes_one_field():
  recipe = recipe_lib.Recipe()
  moved = with_value(recipe, 'optimizer.b2', 0.95)
  assert (
    moved.optimizer.b2 == 0.95 and with_value(moved, 'optimizer.b2', recipe.optimizer.b2) == recipe
  )


def test_targets_are_those_of_ones_own_model():
  """A Qwen3 with experts: names that only it has are understood, and two spellings of one choice
  are one choice.
  """
  config = ModelConfig(
    family='qwen3',
    pattern='*-*E',
    rope_theta=1e4,
    qk_norm=True,
    mlp_activation='swiglu',
    router='softmax',
    moe_shared_expert_intermediate_size=0,
  )

  def state(targets):
    recipe = Recipe(adaptation=Adaptation('lora'), lora=Lora(rank=2, targets=targets))
    return components(recipe, TOKENIZER, TaskSource('micro', 0), StepPlan(8, 0, 0), config)[
      'state'
    ]()

  every = state('all_and_experts')
  assert state('self_attn') == state('attention') != state(r'layers\.1\.self_attn') and state(
    'all'
  ) != every != state('experts')
  with pytest.raises(
    ValueError,
    match=r"lora\.targets = 'mamba' matches none of .*model\.layers\.1\.mlp\.experts\.up_proj",
  ):
    state('mamba')
