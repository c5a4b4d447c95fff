"""What a machine lacks and what goes wrong in a set-up is said at once, before the run exists."""

import json

import pytest
from aevo_command import aevo_process
from stand_ins import StandInMachine

from aevo_jax import layout
from aevo_jax.campaign.setup import dry_run, preflight, setup, validation
from aevo_jax.campaign.setup.estimate import Estimate
from aevo_jax.campaign.setup.settings import CampaignSettings
from aevo_jax.campaign.setup.validation import InvalidCampaignError, SeveralMistakesError
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading

OWN = 'configs/campaigns/own_data.gin'


def constitution(*bindings: str, files: tuple[str, ...] = ()) -> constitution_lib.Constitution:
  loading.load(
    [str(layout.root_file('constitution.gin')), *files],
    list(bindings),
    search_paths=layout.search_paths(),
  )
  return constitution_lib.from_gin()


# what is wrong with the machine, bindings, settings -> what is said, with its fix
MISTAKES = {
  'disk': ({'free': 10**6}, (), {}, 'free space, or choose another --run'),
  'memory': ({'memory': 10**9}, (), {'parallel': 4}, 'bind campaign.parallel = 1, or free some'),
  'no memory at all': ({'memory': 10**8}, (), {}, 'free some, or use a larger machine'),
  'a limit on memory': (
    {'limit': 5 * 10**8},
    (),
    {},
    'memory is limited to 0.5 GB (ulimit -v, -d), and a trial takes about 0.6 GB',
  ),
  'no vLLM': (
    {},
    ("evaluation.engine = 'vllm'", "vllm.python = '/nowhere/python'"),
    {},
    'there is no vLLM at /nowhere/python: run `make vllm`',
  ),
  'budget': ({}, ('budget.workers = 1',), {}, 'leaves campaign.agent'),
  'no axes': ({}, ('search_space.axes = {}',), {}, 'explorers have nothing to explore'),
  'a trial without disk': (
    {},
    (),
    {'trial_disk_gb': 1e-6},
    'the weights of a trial alone take 3.1',
  ),
  'reversal': (
    {},
    ("reversal.test = 'exact'", 'reversal.exact_rounds = 9'),
    {},
    'lower the one or raise the other',
  ),
  'no such family': (
    {},
    ("promotion.unprotected = ('bit_manipulaton',)",),
    {},
    "did you mean 'bit_manipulation'",
  ),
}


ENTRANCES = {
  'the start': lambda *given: setup.prepare(*given[:3], None, given[3]),
  'the dry run': lambda run, frozen, settings, machine: dry_run.rows(
    frozen, settings, Estimate(), None, run, machine
  ),
}


@pytest.mark.parametrize('entrance', ENTRANCES)
@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_said_before_the_run_exists(tiny_home, tmp_path, name, entrance):
  wrong, bindings, settings, said = MISTAKES[name]
  machine = StandInMachine()
  vars(machine).update(wrong)
  with pytest.raises(InvalidCampaignError) as error:
    ENTRANCES[entrance](
      tmp_path / 'run', constitution(*bindings), CampaignSettings(**settings), machine
    )
  assert said in str(error.value) and not (tmp_path / 'run').exists()


@pytest.mark.parametrize('entrance', ENTRANCES)
def test_a_campaign_whose_verdicts_could_detect_nothing_is_refused(tiny_home, tmp_path, entrance):
  small = (
    *('budget.rounds = 2', 'budget.workers = 4', 'budget.noise_seeds = 2'),
    *('dev_set.items = 120', 'external_set.items = 120'),
  )
  given = (CampaignSettings(), StandInMachine())
  with pytest.raises(InvalidCampaignError, match='could detect nothing'):
    ENTRANCES[entrance](tmp_path / 'run', constitution(*small), *given)
  assert not (tmp_path / 'run').exists()
  blind = constitution(*small, 'reversal.blind = True')
  ENTRANCES[entrance](tmp_path / 'run', blind, *given)


def test_all_mistakes_are_said_at_once(tiny_home, tmp_path):
  machine = StandInMachine()
  bindings = []
  settings = {}
  for wrong, bound, set_, _ in MISTAKES.values():
    vars(machine).update(wrong)
    bindings += bound
    settings |= set_
  with pytest.raises(SeveralMistakesError) as error:
    setup.prepare(
      tmp_path / 'run', constitution(*bindings), CampaignSettings(**settings), machine=machine
    )
  covered = {'memory', 'no memory at all'}  # by the limit on it
  for name in MISTAKES.keys() - covered:
    assert MISTAKES[name][3] in str(error.value)
  assert len(error.value.mistakes) == len(MISTAKES) - len(covered)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('entrance', ENTRANCES)
@pytest.mark.parametrize(
  ('file', 'said'),
  [
    ('', 'exists and is an empty directory; choose another --run'),
    ('train.json', 'exists and is a run of `aevo train`; choose another --run'),
    ('manifest.json', 'exists and is a substrate; choose another --run'),
    ('thesis.tex', 'exists and is a directory of other files; choose another --run'),
  ],
)
def test_an_occupied_place_is_said_beside_the_rest(tiny_home, tmp_path, file, said, entrance):
  run = tmp_path / 'run'
  run.mkdir()
  if file:
    (run / file).write_text('{}')
  with pytest.raises(SeveralMistakesError) as error:
    ENTRANCES[entrance](
      run, constitution('budget.workers = 1'), CampaignSettings(), StandInMachine()
    )
  assert said in str(error.value) and MISTAKES['budget'][3] in str(error.value)
  assert '--resume' not in str(error.value)


def test_an_occupied_place_does_not_hide_a_folder_that_is_no_substrate(tmp_path):
  (tmp_path / 'run').mkdir()
  with pytest.raises(SeveralMistakesError, match='choose another --run') as error:
    setup.prepare(tmp_path / 'run', constitution(), CampaignSettings(), tmp_path)
  assert 'is no substrate' in str(error.value)


def test_a_disk_too_small_for_all_trials_is_remarked(tmp_path):
  machine = StandInMachine()
  machine.free = 50 * 10**6
  assert preflight.disk_remark(tmp_path / 'run', 10**7, machine) == ''
  said = preflight.disk_remark(tmp_path / 'run', 10**8, machine)
  assert said.startswith(f'{tmp_path} has 50 MB free, and the trials take about 100 MB;')


def tasks(path, solution: str) -> None:
  rows = []
  for i in range(40):
    row = {'prompt': f'What is {i} + 1?', 'answer': str(i + 1), 'family': 'sums'}
    rows.append(row | ({'solution': solution} if solution else {}))
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


AXES = """search_space.axes = {
  'solution_weight': {'loss.reasoning_weight': {'kind': 'float', 'low': 0.1, 'high': 4.0}},
  'replay': {
    'data.plain_share': {'kind': 'float', 'low': 0.0, 'high': 0.5},
    'optimizer.b2': {'kind': 'float', 'low': 0.9, 'high': 0.999},
  },
  'demonstrations': {'data.demonstrations': {'kind': 'int', 'low': 1, 'high': 64}},
}"""


@pytest.mark.parametrize(
  ('solution', 'dead', 'axes'),
  [
    (
      '',
      ['loss.reasoning_weight', 'data.plain_share', 'data.demonstrations'],
      {'replay': ['optimizer.b2']},
    ),
    (
      'add one',
      ['data.plain_share', 'data.demonstrations'],
      {'solution_weight': ['loss.reasoning_weight'], 'replay': ['optimizer.b2']},
    ),
  ],
)
def test_axes_that_the_tasks_make_dead_are_left_out(tmp_path, solution, dead, axes):
  tasks(tmp_path / 'tasks.jsonl', solution)
  path = f"tasks.path = '{tmp_path / 'tasks.jsonl'}'"
  written = constitution(
    path, AXES, "search_space.from_round = {'demonstrations': 2}", files=(OWN,)
  )
  assert list(setup.dead_bindings(written)) == dead
  frozen = setup.with_tasks(written)
  left = {name: list(axis) for name, axis in frozen.search_space.axes.items()}
  assert left == axes and frozen.search_space.from_round == {}
  assert setup.with_tasks(frozen).digest() == frozen.digest()


def test_a_space_in_which_everything_is_dead_is_refused(tmp_path):
  tasks(tmp_path / 'tasks.jsonl', '')
  axes = AXES.replace("'optimizer.b2'", "'data.demonstrations'").partition("  'demonstrations'")
  written = constitution(f"tasks.path = '{tmp_path / 'tasks.jsonl'}'", f'{axes[0]}}}', files=(OWN,))
  with pytest.raises(InvalidCampaignError, match='has nothing that acts on the tasks'):
    setup.with_tasks(written)


def test_puzzles_have_no_dead_axes():
  assert setup.dead_bindings(constitution()) == {}


RATE = {'optimizer.learning_rate': {'kind': 'float', 'low': 1e-4, 'high': 1e-2, 'scale': 'log'}}
RANK = {'lora.rank': {'kind': 'int', 'low': 2, 'high': 8}}
METHOD = {'method.name': {'kind': 'choice', 'choices': ['sft', 'sft_then_rl']}}


@pytest.mark.parametrize(
  ('limit', 'recipe', 'axis', 'said'),
  [
    (8, 'lora.rank = 8', RATE, ''),
    (8, 'lora.rank = 16', RATE, 'an adapter of rank 16 (lora.rank = 16'),
    # Two methods train an adapter each, and what is handed in is both.
    (16, "lora.rank = 8\nmethod.name = 'sft_then_rl'", RATE, ''),
    (8, "lora.rank = 8\nmethod.name = 'sft_then_rl'", RATE, 'an adapter of rank 16'),
    (8, 'lora.rank = 4', RANK, ''),
    (4, 'lora.rank = 4', RANK, 'adapters of rank 8 (lora.rank up to 8'),
    (8, 'lora.rank = 4', METHOD, ''),
    (
      8,
      'lora.rank = 8',
      METHOD,
      'adapters of rank 16 (lora.rank up to 8, methods sft, sft_then_rl',
    ),
    (8, "lora.rank = 4\nmethod.name = 'sft_then_dpo'", RANK, 'adapters of rank 16'),
  ],
)
def test_adapters_stay_within_the_rank_that_is_taken(limit, recipe, axis, said):
  rules = constitution(f'submission.max_rank = {limit}', f"search_space.axes = {{'axis': {axis}}}")
  text = f"adaptation.method = 'lora'\n{recipe}\n"

  def check() -> None:
    validation.check(rules, 'statistical', text, arbiter='local', workers_choose='policy')

  if not said:
    check()
    return
  with pytest.raises(InvalidCampaignError) as error:
    check()
  assert said in str(error.value)


def test_a_limit_under_which_jax_would_abort_is_said_first():
  """A real one: without the check, C++ ends the process without a sentence."""
  limited = ('sh', '-c', 'ulimit -v 900000; exec "$@"', 'sh')
  result = aevo_process('campaign', '--dry_run', prefix=limited)
  assert result.returncode == 1 and result.stderr.startswith(
    'campaign: memory is limited to 0.9 GB (ulimit -v, -d), and JAX maps more than'
  )
