"""Every binding of every command acts where the table says so, and is refused elsewhere.

Recipes are compared by the fingerprint of what they do, campaigns by what their run freezes,
models by shapes and by the jaxpr of a small stand-in. A new option that nothing reads, or whose
switch is not declared, fails here.
"""

import ast
import dataclasses
import functools
import pathlib

import every_binding
import pytest

from aevo_jax import layout
from aevo_jax.bindings import readers
from aevo_jax.bindings.unread import Reading
from aevo_jax.campaign.setup.settings import settings_from_gin
from aevo_jax.campaign.trial.liveness import _Digests, with_values
from aevo_jax.config import configurables, loading
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config.configurables import Bound
from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.models.config import ModelConfig
from aevo_jax.training.placement import shapes_of
from aevo_jax.training.recipe import fingerprint
from aevo_jax.training.recipe.program_key import program_key
from aevo_jax.training.recipe.recipe import NAMES, Recipe
from aevo_jax.training.recipe.task_source import TaskSource
from aevo_jax.training.recipe.token_budget import StepPlan, plan_steps

TOKENIZER = tokenizers.build()
TASKS = TaskSource('micro', 1)
COMMANDS = tuple(readers.READERS)
# Filled in by the program.
OF_NOBODY = {
  'campaign.llm': 'refused by settings_from_gin',
  'holdout.commitment': 'by the arbiter',
  'starting_recipe.bindings': 'from bindings of a recipe',
  'tasks.digest': 'from the tasks',
}
# What no fingerprint has, and who reads it (`test_every_field_is_read_by_code` looks).
BESIDE_THE_FINGERPRINT = {
  'distillation.teacher': 'a checkpoint directory; test_train has one',
  'environment': 'conversations have no plan',
  'gates': 'they stop a run and train nothing',
  'policy_gradient.clip': 'without it several updates are refused',
  'reward.verifier': 'synthetic rollouts have exact answers',
  'rl.microbatches': 'memory, not results',
  'rl.minibatches': 'one is the most for pairs; swept for reinforcement learning',
}


@pytest.fixture(scope='module', autouse=True)
def nothing_bound():
  loading.load([], [], search_paths=())


def bound(selector: str) -> Bound:
  """A binding of the command line."""
  name, _, parameter = selector.partition('.')
  return Bound(name, parameter, f"binding '{selector}=...'", '', frozenset(), '')


def reading(command: str, values: dict) -> Reading:
  """What a command reads where these settings and flags differ from the defaults."""
  known = {**every_binding.FLAGS, **values}
  flags = {flag.removeprefix('--'): value for flag, value in known.items() if flag[0] == '-'}
  settings = {name: value for name, value in known.items() if name[0] != '-'}
  return Reading(command, flags, settings)


def conditions(command: str, selector: str) -> list:
  name, _, parameter = selector.partition('.')
  declared = [c.when for c in configurables.conditions(name, parameter)]
  return [*(readers.row(command, name, parameter) or ()), *declared]


def test_every_binding_has_a_reader():
  nobody = set()
  for selector in every_binding.all_selectors():
    if not readers.readers(*selector.split('.')):
      nobody.add(selector)
  assert nobody == set(OF_NOBODY)


def test_every_row_of_the_table_names_what_exists():
  known = configurables.parameters()
  for rows in readers.READERS.values():
    for key in rows:
      name, _, parameter = key.partition('.')
      assert name in known and (not parameter or parameter in known[name]), key


@pytest.mark.parametrize('command', COMMANDS)
def test_what_a_command_does_not_read_is_refused(command):
  for selector in every_binding.all_selectors():
    if readers.row(command, *selector.split('.')) is None:
      said = reading(command, {}).why_unread(bound(selector))
      assert said.startswith(f'{selector} is bound, and aevo {command} '), selector


@pytest.mark.parametrize('command', COMMANDS)
def test_a_binding_is_refused_without_each_of_its_conditions(command):
  """And accepted with all of them."""
  for selector in every_binding.selectors(command):
    needed = {}
    for when in conditions(command, selector):
      clause = when.clauses[0]
      if clause.selector not in needed or not clause.holds(needed[clause.selector]):
        needed[clause.selector] = every_binding.met(clause)
    assert reading(command, needed).why_unread(bound(selector)) == '', selector
    for when in conditions(command, selector):
      values = {clause.selector: every_binding.unmet(clause) for clause in when.clauses}
      said = reading(command, needed | values).why_unread(bound(selector))
      assert 'and nothing reads' in said and when.clauses[0].selector in said, (selector, when)


@functools.cache
def attributes() -> dict[str, set[str]]:
  """Name of an attribute that is read -> files."""
  found: dict[str, set[str]] = {}
  for folder in ('aevo_jax', 'launch'):
    for path in sorted((pathlib.Path(layout.PACKAGE).parent / folder).rglob('*.py')):
      for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
          found.setdefault(node.attr, set()).add(path.name)
  return found


# Read by name, all fields of a section in a loop.
IN_A_LOOP = (
  *('family_weight', 'rare_share', 'solution_style', 'answer_shown', 'answer_withheld'),
  *('gates', 'reward', 'probes', 'holdout', 'starting_recipe'),
)


def test_every_field_is_read_by_code():
  for selector in every_binding.all_selectors():
    name, _, parameter = selector.partition('.')
    if name not in IN_A_LOOP and selector not in OF_NOBODY:
      assert parameter in attributes(), selector


def plan_of(recipe: Recipe) -> StepPlan:
  if not recipe.method.supervised:
    return StepPlan(0, 50, 0)
  return plan_steps(recipe, TOKENIZER, TASKS, tokens=400_000, steps=480)


def parts(recipe: Recipe) -> dict:
  return fingerprint.components(recipe, TOKENIZER, TASKS, plan_of(recipe))


@functools.cache
def base_of(context: tuple) -> tuple[Recipe, _Digests]:
  recipe = with_values(Recipe(), dict(context))
  return recipe, _Digests(parts(recipe))


def is_beside(selector: str) -> bool:
  return selector in BESIDE_THE_FINGERPRINT or selector.split('.')[0] in BESIDE_THE_FINGERPRINT


OF_RECIPES = [
  s for s in every_binding.selectors('train') if s.split('.')[0] in NAMES and not is_beside(s)
]


@pytest.mark.parametrize('selector', OF_RECIPES)
def test_a_value_of_a_recipe_changes_what_it_does(selector):
  context = every_binding.context(selector)
  base, digests = base_of(tuple(context.items()))
  now = context.get(selector, every_binding.default(selector))
  for value in every_binding.others(selector, now):
    try:
      moved = with_values(base, {selector: value})
      changed = digests.first_difference(parts(moved))
    except ValueError:
      continue  # impossible beside the rest
    # Rows of a step, and how its logits are cut, are part of the program alone.
    if changed or program_key(moved) != program_key(base):
      return
  pytest.fail(f'{selector}: no other value changes anything')


DEAD = [
  ('optimizer.decay_fraction', {}),
  ('optimizer.b2', {'optimizer.name': 'muon', 'adaptation.method': 'lora'}),
  ('optimizer.b1', {'optimizer.name': 'adafactor'}),
  ('lora.alpha', {}),
  ('loss.reasoning_weight', {'method.name': 'rl'}),
  ('policy_gradient.clip_low', {'method.name': 'rl'}),
  ('policy_gradient.kl_unbiased', {}),
  ('advantage.kind', {}),
  ('dpo.beta', {'method.name': 'rl'}),
  ('data.plain_share', {'method.name': 'rl'}),
  ('solution_style.text_encryption', {'family_weight.text_encryption': 0.0}),
]


@pytest.mark.parametrize(('selector', 'values'), DEAD)
def test_what_is_refused_does_change_nothing(selector, values):
  """The other side: no binding that acts is refused."""
  assert reading('train', values).why_unread(bound(selector))
  base, digests = base_of(tuple(values.items()))
  for value in every_binding.others(selector, every_binding.default(selector))[:2]:
    try:
      moved = with_values(base, {selector: value})
    except ValueError:
      continue  # its own section refuses it
    assert digests.first_difference(parts(moved)) is None, value


# Settings that are legal together alone.
SERVERS = {'vllm.url': 'http://127.0.0.1:1', 'evaluation.arbiter_url': 'http://127.0.0.1:2'}
TOGETHER = {
  'evaluation.arbiter_url': SERVERS,
  'vllm.url': SERVERS,
  'objective.target': {'probes.rules': 40},
}
# A campaign's engine scores sealed weights, which no adapter's carrier takes: refused.
OF_ADAPTERS = ('vllm.lora_rank', 'vllm.lora_slots')
# Of a campaign, what is no recipe's. The estimate is printed and frozen nowhere.
OF_CAMPAIGNS = [
  s
  for s in every_binding.selectors('campaign')
  if s.split('.')[0] not in (*NAMES, 'estimate', 'rollout') and s not in OF_ADAPTERS
]


def frozen(values: dict[str, object]) -> tuple:
  """What a run directory freezes of a campaign with these bindings."""
  bindings = [f'{name} = {value!r}' for name, value in values.items()]
  loading.load([str(layout.root_file('constitution.gin'))], bindings, search_paths=())
  return constitution_lib.from_gin().text(), settings_from_gin()


@pytest.mark.parametrize('selector', OF_CAMPAIGNS)
def test_a_value_of_a_campaign_is_frozen_in_its_run(selector):
  needed = {}
  for when in conditions('campaign', selector):
    clause = when.clauses[0]
    if clause.selector not in needed and not clause.holds(every_binding.default(clause.selector)):
      needed[clause.selector] = every_binding.met(clause)
  frozen(needed)
  name, _, parameter = selector.partition('.')
  now = getattr(configurables.resolve(name), parameter)
  given = needed | TOGETHER.get(selector, {})
  base = frozen(given)
  for value in every_binding.others(selector, now):
    try:
      moved = frozen(given | {selector: value})
    except ValueError:
      continue  # impossible beside the rest
    if moved != base:
      return
  pytest.fail(f'{selector}: no other value is frozen')


def of_model(config: ModelConfig) -> tuple:
  """Shapes, and what a small stand-in computes."""
  recipe = Recipe()
  shapes = str(shapes_of(config, recipe.adaptation, recipe.lora))
  computed = functools.partial(
    fingerprint._gradient_digest, config, recipe.adaptation, recipe.lora, recipe.loss
  )
  return shapes, computed


# Read outside of the forward pass, or where the stand-in has its own sizes.
OF_A_WHOLE_MODEL = {
  'model.chunk_size': 'the stand-in has a short one',
  'model.family': 'names in files',
  'model.max_position_embeddings': 'of tokenizer and generation',
  'model.n_group': 'the stand-in has one',
  'model.topk_group': 'the stand-in has one',
  'model.num_experts_per_tok': 'the stand-in has two',
  'model.moe_implementation': 'one of them on this device',
  'model.attention_implementation': 'one of them on this device',
  'model.remat_policy': 'memory, not results',
  'model.scan': 'names and compile time, not results',
}
# What a family has no words for is refused by `ModelConfig`.
FIXED_BY_FAMILY = ('mlp_activation', 'qk_norm', 'rope_theta', 'router', 'tie_word_embeddings')


@pytest.mark.parametrize(
  'selector',
  [
    s
    for s in every_binding.selectors('pretrain')
    if s.startswith('model.') and s not in OF_A_WHOLE_MODEL
  ],
)
def test_a_value_of_a_model_changes_it(selector):
  field = selector.partition('.')[2]
  base = ModelConfig(pattern='M*-E')
  for value in every_binding.others(selector, getattr(base, field)) or [0.5, 7]:
    if value == getattr(base, field):
      continue
    try:
      moved = dataclasses.replace(base, **{field: value})
      shapes, computed = of_model(moved)
    except ValueError:
      continue
    old_shapes, old_computed = of_model(base)
    assert shapes != old_shapes or computed() != old_computed(), (selector, value)
    return
  assert field in FIXED_BY_FAMILY, f'{selector}: no other value is possible'
