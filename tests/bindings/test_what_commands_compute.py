"""A value that is bound changes what `aevo simulate`, `aevo evaluate` and vLLM's server do."""

import functools
import pathlib

import every_binding
import pytest

from aevo_jax import layout
from aevo_jax.bindings import readers
from aevo_jax.config import configurables, inference, loading
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.evaluation import sets
from aevo_jax.generation.vllm import server
from aevo_jax.models.config import ModelConfig
from aevo_jax.simulation import campaign, study
from aevo_jax.simulation.scenario import Scenario
from aevo_jax.tasks.mixture import FAMILIES

SECRET = bytes(range(32))


def statements(values: dict[str, object]) -> tuple[str, ...]:
  return tuple(f'{name} = {value!r}' for name, value in values.items())


def load(bindings: tuple[str, ...]) -> constitution_lib.Constitution:
  loading.load([str(layout.root_file('constitution.gin'))], bindings, search_paths=())
  return constitution_lib.from_gin()


def now(selector: str) -> object:
  """The value that is bound."""
  name, _, parameter = selector.partition('.')
  return getattr(configurables.resolve(name), parameter)


# -- simulate --------------------------------------------------------------------------------------

SMALL = {
  'budget.rounds': 4,
  'budget.workers': 4,
  'dev_set.items': 60,
  'external_set.items': 60,
  'release.per_round': 2,
  'reversal.calibration_rounds': 1,
  'control.workers': 1,
}
# A shift that is found, and what follows.
FOUND = {
  'budget.rounds': 8,
  'budget.workers': 8,
  'dev_set.items': 1200,
  'external_set.items': 3000,
  'reversal.alpha': 0.3,
  'simulation.plant_size': 6.0,
  'simulation.plant_round': 2,
}
# What it takes to see the effect, beside the small campaign.
SEEN_WITH = {
  'control.workers': FOUND,
  'control.rounds': FOUND,
  'keep_or_discard.anchor_every': {'budget.rounds': 12},
  'keep_or_discard.screen': {'budget.rounds': 12},
  'promotion.unprotected': {'promotion.family_floor': 0.001},
  'simulation.gain': FOUND | {'simulation.surface': 'single'},
  'simulation.slice_harm': FOUND | {'simulation.surface': 'single'},
  'promotion.looks': FOUND | {'simulation.surface': 'single', 'simulation.gain': 0.1},
  'promotion.candidates': FOUND | {'simulation.surface': 'single', 'simulation.gain': 0.1},
  'simulation.plant_round': FOUND,
  'simulation.plant_size': FOUND,
  'simulation.plant_harm': FOUND,
  'reversal.exact_rounds': {'reversal.test': 'exact'},
  'simulation.anchors': FOUND | {'simulation.plant_size': 3.0},
}
RATE = {'kind': 'float', 'low': 5e-5, 'high': 5e-3, 'scale': 'log'}
VALUES = {
  'search_space.axes': [{'update_rule': {'optimizer.learning_rate': RATE}}],
  'search_space.from_round': [{'adaptation': 3}],
  'keep_or_discard.screen': [0.9],
  'promotion.unprotected': [tuple(FAMILIES)],
  'simulation.tail': [3],
  'simulation.plant_axes': [('adaptation',), ('moments',)],
}
# What a run of seconds cannot show, and what does.
SHOWN_ELSEWHERE = {
  'objective.verifier': 'answers and verifiers, tests/tasks/test_verify.py',
  'simulation.surface': 'each of them, tests/simulation/test_surface.py',
  'simulation.trials': 'the fitted surface, tests/simulation/test_surface.py',
  'tasks.path': 'families of own tasks, tests/launch/test_simulate.py',
}
OF_SIMULATIONS = [s for s in every_binding.selectors('simulate') if s not in SHOWN_ELSEWHERE]


def agent_of(selector: str) -> str:
  for when in readers.row('simulate', *selector.split('.')) or ():
    for clause in when.clauses:
      if clause.selector == '--agents':
        return clause.part
  return 'statistical'


class Observed(campaign.Simulator):
  """Keeps every round's evidence: scores, releases, verdicts."""

  def __init__(self, *arguments):
    super().__init__(*arguments)
    self.evidence = []

  def run_round(self, state, policy):
    found = super().run_round(state, policy)
    self.evidence.append(found.to_text())
    return found


@functools.lru_cache(maxsize=4)
def simulated(agent: str, bindings: tuple[str, ...]) -> list:
  constitution = load(bindings)
  scenario = Scenario(
    constitution,
    configurables.resolve('simulation'),
    (layout.root_file('substrate') / 'recipe.gin').read_text(),
    tuple(FAMILIES),
    'reversal',
  )
  if agent == study.NO_AGENT:
    return study.as_json(study.outcomes(scenario, [agent], 3)[agent].outcomes)
  simulator = Observed(scenario, 0)
  policies = campaign.simulate(simulator, scenario, agent, 0)
  return [*simulator.evidence, *map(str, policies)]


@pytest.mark.parametrize('selector', OF_SIMULATIONS)
def test_a_value_changes_what_is_simulated(selector):
  agent = agent_of(selector)
  given = SMALL | SEEN_WITH.get(selector, {})
  load(statements(given))
  base = simulated(agent, statements(given))
  for value in VALUES.get(selector) or every_binding.others(selector, now(selector)):
    try:
      moved = simulated(agent, statements(given | {selector: value}))
    except ValueError:
      continue  # impossible beside the rest
    if moved != base:
      return
  pytest.fail(f'{selector}: no other value changes anything')


# -- evaluate --------------------------------------------------------------------------------------

SETS = {'dev': 'dev_set', 'external': 'external_set', 'final': 'final_set'}
OF_SETS = [s for s in every_binding.selectors('evaluate') if s.partition('.')[0] in SETS.values()]


def items_digest(split: str, values: dict[str, object]) -> str:
  constitution = load(statements(values))
  if split == 'dev':
    return sets.items_digest(sets.dev_items(constitution))
  return sets.items_digest(sets.private_items(constitution, split, SECRET))


@pytest.mark.parametrize('selector', [*OF_SETS, 'objective.size', 'objective.target'])
def test_a_value_changes_the_items_that_are_scored(selector):
  section = selector.partition('.')[0]
  split = next((split for split, name in SETS.items() if name == section), 'final')
  given = {f'{SETS[split]}.items': 60}
  if selector == 'objective.target':  # which needs more probes than there are by default
    given['probes.rules'] = 40
  load(statements(given))
  base = items_digest(split, given)
  for value in every_binding.others(selector, now(selector)):
    try:
      moved = items_digest(split, given | {selector: value})
    except ValueError:
      continue
    if moved != base:
      return
  pytest.fail(f'{selector}: no other value changes anything')


# -- vLLM's server ---------------------------------------------------------------------------------

# What the client does with them, and who shows it.
OF_THE_CLIENT = {
  'vllm.url': 'the server that is asked',
  'vllm.gap': 'the gate of tests/generation/test_vllm_engine.py',
  'vllm.concurrency': 'requests at a time',
  'vllm.startup_s': 'patience',
  'vllm.request_s': 'patience',
  'vllm.retries': 'patience',
  'vllm.transfer_address': 'where the sender listens',
}
OF_SERVERS = [
  s for s in every_binding.all_selectors() if s.startswith('vllm.') and s not in OF_THE_CLIENT
]


def test_what_is_left_out_can_be_bound():
  assert {*OF_THE_CLIENT, *SHOWN_ELSEWHERE, *SEEN_WITH, *VALUES} <= set(
    every_binding.all_selectors()
  )


def started(values: dict[str, object], directory: pathlib.Path) -> tuple:
  fields = {name.partition('.')[2]: value for name, value in values.items()}
  settings = inference.Vllm(**fields)
  listen = ['--uds', str(directory / 'socket')]
  return (
    server.command(settings, directory, ModelConfig(pattern='*-'), listen),
    server.environment(settings),
  )


@pytest.mark.parametrize('selector', OF_SERVERS)
def test_a_value_changes_how_the_server_is_started(selector, tmp_path):
  (tmp_path / 'python').touch()
  given = {'vllm.python': str(tmp_path / 'python')} | every_binding.context(selector)
  base = started(given, tmp_path)
  others = every_binding.others(selector, given.get(selector, every_binding.default(selector)))
  if selector == 'vllm.python':
    (tmp_path / 'another').touch()
    others = [str(tmp_path / 'another')]
  for value in others:
    try:
      moved = started(given | {selector: value}, tmp_path)
    except ValueError:
      continue
    if moved != base:
      return
  pytest.fail(f'{selector}: no other value changes anything')
