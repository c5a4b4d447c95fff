"""A binding without effect is refused, by every command; shared files are read sensibly."""

import pytest
from aevo_command import aevo

from aevo_jax import layout
from aevo_jax.bindings import registered as _registered  # noqa: F401  what files may bind
from aevo_jax.bindings.unread import Reading, refuse_unread
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.configurables import LoadError

TASKS = 'configs/tasks/example.jsonl'
BASE = layout.root_file('substrate') / 'base'
PRETRAIN = '--gin_file=configs/recipes/pretrain_micro.gin'
SMOKE = '--gin_file=configs/campaigns/smoke.gin'  # whose axes leave the method alone
FSDP = '--gin_file=configs/meshes/fsdp.gin'

# (command, arguments, what is said)
REFUSED = [
  ('campaign', ('--dry_run', '--gin.model.hidden_size=7'), 'aevo campaign reads nothing of model'),
  ('campaign', ('--dry_run', SMOKE, '--gin.lora.rank=4'), "while adaptation.method = 'full'"),
  ('campaign', ('--dry_run', '--gin.estimate.devices=4'), "while estimate.model = ''"),
  ('campaign', ('--dry_run', '--gin.llm.attempts=2'), "bind campaign.agent = 'llm'"),
  ('campaign', ('--dry_run', '--gin.keep_or_discard.anchors=2'), "= 'keep_or_discard'"),
  ('campaign', ('--dry_run', '--gin.reversal.exact_rounds=2'), "bind reversal.test = 'exact'"),
  ('campaign', ('--dry_run', '--gin.probes.draws=4'), 'while probes.samples = 0'),
  ('campaign', ('--dry_run', '--gin.vllm.gap=0.001'), "bind evaluation.engine = 'vllm'"),
  ('campaign', ('--dry_run', '--gin.holdout.commitment="x"'), 'filled in when a campaign starts'),
  (
    'campaign',
    ('--dry_run', '--gin.starting_recipe.bindings={}'),
    'filled in when a campaign starts',
  ),
  (
    'campaign',
    (
      '--dry_run',
      "--gin.objective.target='proxies'",
      '--gin.probes.rules=9',
      '--gin.external_set.items=40',
    ),
    "bind objective.target = 'external'",
  ),
  (
    'train',
    ('--gin.lora.rank=16', '--steps=2'),
    "lora.rank is bound, and nothing reads lora while adaptation.method = 'full'; leave it out, "
    "or bind adaptation.method = 'lora'",
  ),
  ('train', ('--gin.optimizer.decay_fraction=0.3',), "while optimizer.schedule = 'cosine'"),
  (
    'train',
    ("--gin.optimizer.name='sgd'", '--gin.optimizer.b2=0.9'),
    "optimizer.b2 is bound, and nothing reads it while optimizer.name = 'sgd'",
  ),
  (
    'train',
    ("--gin.optimizer.name='muon'", "--gin.adaptation.method='lora'", '--gin.optimizer.b2=0.9'),
    "or bind adaptation.method = 'full'",
  ),
  ('train', (f'--tasks={TASKS}', '--gin.family_weight.text_encryption=2.0'), 'leave out --tasks'),
  (
    'train',
    (f'--tasks={TASKS}', "--gin.solution_style.text_encryption='bare'"),
    f"nothing reads solution_style while --tasks = '{TASKS}'",
  ),
  (
    'train',
    ('--gin.family_weight.text_encryption=0.0', '--gin.rare_share.text_encryption=0.2'),
    'while family_weight.text_encryption = 0.0',
  ),
  (
    'train',
    ("--gin.method.name='rl'", '--gin.train.batch_rows=8'),
    "nothing reads it while method.name = 'rl'",
  ),
  (
    'train',
    (
      "--gin.method.name='rl'",
      '--gin.method.learning_rate=0.1',
      '--gin.optimizer.learning_rate=0.1',
    ),
    'bind method.learning_rate = 0.0',
  ),
  (
    'train',
    ("--gin.method.name='rl'", '--gin.policy_gradient.clip_low=0.1'),
    'or bind rl.epochs to another value than 1',
  ),
  ('train', ("--gin.method.name='dpo'", '--gin.critic.clip=0.1'), 'nothing reads critic'),
  ('train', ('--gin.upkeep.profile_first=3',), 'bind upkeep.profile_steps to another value'),
  ('train', ('--gin.sharding.replicated_limit_mib=1',), 'nothing reads sharding while mesh.axes'),
  (
    'train',
    ("--gin.model.moe_implementation='ragged_dot'",),
    "while model.pattern = 'M-*-M-*-'; leave it out\n",
  ),
  ('train', ('--gin.budget.rounds=2',), '(read by aevo campaign, aevo simulate)'),
  ('train', ('--gin_file=configs/campaigns/smoke.gin',), 'reads none of its bindings (campaign.'),
  ('pretrain', (PRETRAIN, '--gin.rl.epochs=2'), 'aevo pretrain reads nothing of rl'),
  (
    'pretrain',
    (PRETRAIN, '--gin.sharding.replicated_limit_mib=1'),
    'nothing reads sharding while mesh.axes = {}',
  ),
  ('pretrain', (PRETRAIN, "--gin.model.router='sigmoid'"), "to one with 'E' in it"),
  (
    'pretrain',
    (PRETRAIN, '--gin.pretrain.worked_share=0.0', '--gin.pretrain.steps_share=0.1'),
    'while pretrain.worked_share = 0.0',
  ),
  ('evaluate', (BASE, '--gin.model.hidden_size=7'), 'aevo evaluate reads nothing of model'),
  ('evaluate', (BASE, '--gin.dev_set.items=7', '--items=3'), '--items takes its place'),
  ('evaluate', (BASE, '--gin.final_set.items=7'), 'or give --split=final'),
  ('evaluate', (BASE, '--gin.external_set.items=7', '--items=3'), 'or give --split=external'),
  ('evaluate', (BASE, '--gin.final_set.items=7', '--items=3'), 'or give --split=final'),
  (
    'evaluate',
    (BASE, FSDP, "--gin.evaluation.engine='vllm'"),
    "nothing reads mesh while evaluation.engine = 'vllm'; leave it out, or bind",
  ),
  ('evaluate', (BASE, '--gin.sharding.rules={"embed": "x"}'), 'nothing reads sharding while mesh'),
  ('evaluate', (BASE, '--gin.evaluation.arbiter_url="http://a"'), 'does not read it'),
  (
    'evaluate',
    (BASE, f"--gin.tasks.path='{TASKS}'", "--gin.objective.size='standard'"),
    "bind tasks.path = ''",
  ),
  ('shapes', (FSDP, '--gin.train.steps=3'), 'aevo shapes does not read it'),
  ('shapes', (FSDP, "--gin.adaptation.method='lora'", '--adaptation=full'), '--adaptation takes'),
  ('shapes', (FSDP, '--adaptation=full', '--gin.lora.rank=4'), "while --adaptation = 'full'"),
  ('simulate', ('--gin.simulation.plant_size=2.0',), "while --plant = 'none'"),
  ('simulate', ('--gin.simulation.anchors=2',), "--agents to one with 'none' in it"),
  ('simulate', ('--gin.optimizer.learning_rate=0.1',), 'aevo simulate reads nothing of optimizer'),
  (
    'replay_ledger',
    ('docs/history.csv', '--external_column=private_score', '--gin.budget.rounds=2'),
    'aevo replay_ledger reads nothing of budget',
  ),
]


@pytest.mark.parametrize(('command', 'arguments', 'said'), REFUSED)
def test_it_is_refused_and_the_fix_is_named(tmp_path, command, arguments, said):
  out = tmp_path / 'out'
  if command in ('train', 'pretrain'):
    arguments = (*arguments, f'--out={out}')
  result = aevo(command, *arguments)
  assert result.returncode == 1 and said in result.stderr, result.stderr
  assert not out.exists()


CONSTITUTION = layout.root_file('constitution.gin')
RECIPE = layout.root_file('substrate') / 'recipe.gin'
FIRST = {
  'campaign': (CONSTITUTION, RECIPE),
  'evaluate': (CONSTITUTION,),
  'replay_ledger': (CONSTITUTION,),
  'simulate': (CONSTITUTION,),
  'train': (RECIPE,),
}


def check(command: str, files: tuple = (), bindings: tuple = (), **flags: object) -> None:
  """Loads gin as a command does, and refuses what has no effect."""
  defaults = [str(path) for path in FIRST.get(command, ())]
  files = [*defaults, *map(str, files)]
  bound = loading.load(files, bindings, search_paths=layout.search_paths())
  theirs = tuple(binding for binding in bound if binding.given not in defaults)
  refuse_unread(theirs, Reading(command, flags, {}, defaults), command)


# (what a file holds, the command, bindings of the command line, what is said, '' for nothing)
SHARED = [
  ("tasks.path = 'x.jsonl'\nbudget.rounds = 2", 'evaluate', (), ''),
  ('budget.rounds = 2\noptimizer.learning_rate = 0.1', 'train', (), ''),
  ('budget.rounds = 2', 'train', (), 'mine.gin: aevo train reads none of its bindings (budget.'),
  ('lora.rank = 16\nlora.alpha = 32.0', 'train', (), ''),  # the defaults
  ('loss.label_smoothing = 0.1\nlora.rank = 8', 'train', (), 'mine.gin:2: lora.rank is bound'),
  ('lora.rank = 8', 'train', ("adaptation.method = 'lora'",), ''),
  ('dev_set.items = 9\nexternal_set.items = 9', 'evaluate', (), ''),
  ('dev_set.items = 9', 'evaluate', ('dev_set.items = 8',), ''),
  ('RATE = 0.1\noptimizer.learning_rate = %RATE', 'train', ('RATE = 0.2',), ''),
  ('R = 2\nbudget.rounds = %R\ntrain.steps = 3', 'train', ('R = 3',), 'macro R has no effect'),
]


@pytest.mark.parametrize(('content', 'command', 'bindings', 'said'), SHARED)
def test_a_file_may_be_shared_between_commands(tmp_path, content, command, bindings, said):
  path = tmp_path / 'mine.gin'
  path.write_text(content + '\n')
  if not said:
    check(command, (path,), bindings, split='dev')
    return
  with pytest.raises(LoadError) as refusal:
    check(command, (path,), bindings, split='dev')
  assert said in str(refusal.value)


def test_two_files_that_say_the_same_are_no_default(tmp_path):
  for name in ('a.gin', 'b.gin'):
    (tmp_path / name).write_text('lora.rank = 8\n')
  with pytest.raises(LoadError, match=r'b\.gin:1: lora\.rank is bound'):
    check('train', (tmp_path / 'a.gin', tmp_path / 'b.gin'))


_EPOCHS = "{'rl.epochs': {'kind': 'int', 'low': 1, 'high': 4}}"
_ASYNCHRONOUS = "{'rollout.asynchronous': {'kind': 'bool'}}"
_SCHEDULES = "{'optimizer.schedule': {'kind': 'choice', 'choices': ['cosine', '%s']}}"
_METHODS = "{'adaptation.method': {'kind': 'choice', 'choices': ['full', 'lora']}}"
RL = "method.name = 'rl'"


@pytest.mark.parametrize(
  ('axis', 'bindings', 'said'),
  [
    (_SCHEDULES % 'wsd', ('optimizer.decay_fraction = 0.3',), ''),
    (_SCHEDULES % 'linear', ('optimizer.decay_fraction = 0.3',), "bind optimizer.schedule = 'wsd'"),
    (_METHODS, ('lora.rank = 4',), ''),
    (_METHODS, ('dpo.beta = 0.2',), "while method.name = 'sft'"),
    (_EPOCHS, (RL, 'policy_gradient.clip_low = 0.1'), ''),
    (_ASYNCHRONOUS, (RL, 'policy_gradient.clip_low = 0.1'), ''),
    (_METHODS, (RL, 'policy_gradient.clip_low = 0.1'), 'while rl.epochs = 1'),
  ],
)
def test_what_an_axis_can_switch_on_may_be_bound_in_a_campaign(axis, bindings, said):
  bindings = (f"search_space.axes = {{'axis': {axis}}}", *bindings)
  if not said:
    check('campaign', (), bindings, dry_run=True)
    return
  with pytest.raises(LoadError, match=said):
    check('campaign', (), bindings, dry_run=True)


def published(folder: str) -> list[str]:
  files = (layout.root_file('configs') / folder).iterdir()
  return sorted(f'configs/{folder}/{path.name}' for path in files)


COMMANDS_OF = {
  'algorithms': ['train'],
  'campaigns': ['campaign', 'simulate'],
  'engines': ['evaluate'],
  'meshes': ['train', 'pretrain', 'evaluate', 'shapes'],
  'models': ['shapes', 'pretrain'],
  'recipes': ['pretrain'],
}


@pytest.mark.parametrize('folder', COMMANDS_OF)
def test_every_published_file_serves_the_commands_that_it_is_for(folder):
  for path in published(folder):
    for command in COMMANDS_OF[folder]:
      if (command, path) == ('simulate', 'configs/campaigns/quickstart.gin'):
        continue  # it binds seed and agent, which simulations have from elsewhere
      check(command, (path,), dry_run=False, split='dev', agents=['statistical'], plant='none')
      check(command, (path,), dry_run=True, split='dev', agents=['statistical'], plant='none')


def test_a_model_takes_the_place_of_an_included_one():
  check('pretrain', ('configs/recipes/pretrain_micro.gin', 'configs/models/micro_qwen3.gin'))


def test_a_constitution_that_was_rendered_is_a_gin_file(tmp_path):
  loading.load([str(CONSTITUTION)], [], search_paths=())
  path = tmp_path / 'constitution.gin'
  path.write_text(constitution_lib.from_gin().committed('f' * 64).text())
  for command in ('campaign', 'evaluate', 'simulate', 'replay_ledger'):
    check(command, (path,), dry_run=False, split='dev', agents=['statistical'], plant='none')
