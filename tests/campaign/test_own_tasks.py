"""A campaign on tasks and a substrate of one's own: what is frozen, what workers can see, what is
refused; and, marked slow, one run to its end.
"""

import dataclasses
import json
import pathlib
import shutil
import sys
import types

import pytest

from aevo_jax import layout
from aevo_jax.campaign.setup import setup, validation
from aevo_jax.campaign.trial.liveness import DeadBindingError, check_live
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.statements import parse_statements
from aevo_jax.data import corpus
from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.evaluation import sets
from aevo_jax.evaluation.servers import arbiter
from aevo_jax.substrate.build import SubstrateMismatchError
from aevo_jax.tasks import own_data
from aevo_jax.tasks.own_data import TaskFileError
from aevo_jax.tasks.verify import UnknownVerifierError
from aevo_jax.training.recipe.recipe import Recipe
from aevo_jax.training.recipe.task_source import TaskSource

GIN = 'configs/campaigns/own_data.gin'
SMALL = ('dev_set.items = 12', 'external_set.items = 12', 'final_set.items = 12')


def constitution(*bindings: str) -> constitution_lib.Constitution:
  last = {binding.partition(' = ')[0]: binding for binding in (*SMALL, *bindings)}
  loading.load(
    [str(layout.root_file('constitution.gin')), GIN],
    list(last.values()),
    search_paths=layout.search_paths(),
  )
  return constitution_lib.from_gin()


@pytest.fixture(scope='module')
def prepared(tiny_home):
  """A prepared campaign on the example's tasks, from a substrate of its own; nothing is run."""
  substrate = tiny_home / 'own_substrate'
  shutil.copytree(tiny_home / 'substrate', substrate)
  run = tiny_home / 'own_tasks'
  return run, setup.prepare(run, constitution(), setup.CampaignSettings(seed=3), substrate)


def test_tasks_are_frozen_in_run_and_constitution(prepared):
  run, inputs = prepared
  example = layout.root_file('configs') / 'tasks' / 'example.jsonl'
  tasks = own_data.read(example)
  assert (run / sets.TASKS).read_text() == tasks.text()
  assert (
    inputs.constitution.tasks == constitution_lib.Tasks('configs/tasks/example.jsonl', tasks.digest)
    and inputs.constitution.objective.verifier == 'number'
  )
  assert (
    inputs.substrate_root == str(run.parent / 'own_substrate') and setup.reload(run)[0] == inputs
  )


def test_workers_get_the_train_split_and_nothing_private(prepared):
  run, inputs = prepared
  stored = pathlib.Path(inputs.store) / inputs.substrate_object
  secret = arbiter.holdout_secret(pathlib.Path(inputs.arbiter_home), inputs.holdout)
  own = sets.own_tasks(inputs.constitution, run / sets.TASKS)
  given = corpus.load(stored).items
  assert given == own.of_split('train')
  groups = [
    {i.key for i in given},
    *(
      {i.key for i in items}
      for items in (
        sets.dev_items(inputs.constitution, own),
        *(
          sets.private_items(inputs.constitution, split, secret, own)
          for split in ('external', 'final')
        ),
      )
    ),
  ]
  assert [len(g) for g in groups[1:]] == [12, 12, 12] and len(set().union(*groups)) == sum(
    map(len, groups)
  )
  text = b''.join(p.read_bytes() for p in stored.rglob('*') if p.is_file())
  assert given[0].question.encode() in text  # the control
  assert not any(item.question.encode() in text for item in own.items if item.key not in groups[0])


def test_other_tasks_are_another_holdout(prepared, tmp_path):
  run, inputs = prepared
  (tmp_path / 't.jsonl').write_text(
    (run / sets.TASKS).read_text()
    + json.dumps({'prompt': 'one more', 'answer': '1', 'family': 'sums'})
    + '\n'
  )
  changed = setup.with_tasks(
    dataclasses.replace(
      inputs.constitution, tasks=constitution_lib.Tasks(str(tmp_path / 't.jsonl'))
    )
  )
  assert (
    changed.tasks.digest != inputs.constitution.tasks.digest
    and changed.digest() != inputs.constitution.digest()
  )


def test_changed_tasks_are_refused_on_resume(prepared, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(prepared[0], run)
  lines = (run / sets.TASKS).read_text().splitlines(keepends=True)
  for text in (
    ''.join(lines[1:]),
    ''.join([lines[1], lines[0], *lines[2:]]),
    lines[0].replace('"sums"', '"larger"') + ''.join(lines[1:]),
  ):
    (run / sets.TASKS).write_text(text)
    with pytest.raises(setup.RunDirectoryError, match='holds other tasks'):
      setup.reload(run)
  (run / sets.TASKS).unlink()
  with pytest.raises(setup.RunDirectoryError, match=r'there is no .*tasks\.jsonl'):
    setup.reload(run)


@pytest.mark.parametrize(
  ('binding', 'error', 'said'),
  [
    ("tasks.path = 'nowhere.jsonl'", TaskFileError, 'there is no nowhere.jsonl'),
    (
      "objective.verifier = 'nmber'",
      UnknownVerifierError,
      "did you mean 'number'.*of strict, challenge, number, choice",
    ),
    (
      'external_set.items = 400',
      TaskFileError,
      'external_set.items = 400 needs 100 of it; lower external_set.items to',
    ),
    (
      "dev_set.rare_share = {'bit_manipulation': 0.0}",
      TaskFileError,
      'dev_set.rare_share is of the puzzles',
    ),
    (
      (
        "search_space.axes = {'mix': {'family_weight.bit_manipulation': {'kind': 'float', "
        "'low': 0.2, 'high': 4.0}}}"
      ),
      TaskFileError,
      "'mix' varies family_weight.bit_manipulation",
    ),
    (
      'objective.max_new_tokens = 4',
      TaskFileError,
      r'example\.jsonl:1: solution, answer and end are',
    ),
  ],
)
def test_what_cannot_work_is_said_before_anything_is_made(prepared, tmp_path, binding, error, said):
  with pytest.raises(error, match=said):
    setup.prepare(
      tmp_path / 'run',
      constitution(binding),
      setup.CampaignSettings(),
      pathlib.Path(prepared[1].substrate_root),
    )
  assert not (tmp_path / 'run').exists()


def test_a_folder_that_is_no_substrate_is_named(tiny_home, tmp_path):
  with pytest.raises(
    SubstrateMismatchError,
    match=r'is no substrate: it has no manifest\.json; make one with: aevo substrate build',
  ):
    setup.prepare(tmp_path / 'run', constitution(), setup.CampaignSettings(), tmp_path)


@pytest.mark.parametrize('readable', [sys.prefix, '/usr', pathlib.Path(layout.__file__).parent])
def test_private_tasks_may_not_lie_where_workers_read(tiny_home, tmp_path, readable):
  (tmp_path / 'link').symlink_to(readable)
  run = tmp_path / 'link' / 'share' / 'run'
  with pytest.raises(
    validation.SeveralMistakesError,  # and the substrate is none
    match=r'run lies beneath .*, which locked workers may read.*choose a --run outside of it',
  ):
    setup.prepare(run, constitution(), setup.CampaignSettings(), tmp_path)
  loading.load([str(layout.root_file('constitution.gin'))], [], search_paths=layout.search_paths())
  with pytest.raises(
    SubstrateMismatchError
  ):  # the next thing that is wrong: puzzles have no private file
    setup.prepare(run, constitution_lib.from_gin(), setup.CampaignSettings(), tmp_path)


def test_bindings_of_puzzles_are_dead_and_others_live(prepared):
  _, inputs = prepared
  stored = pathlib.Path(inputs.store) / inputs.substrate_object
  made, tokenizer = corpus.load(stored), tokenizers.load(str(stored))
  space = inputs.constitution.space()
  live = parse_statements('loss.reasoning_weight = 2.0')
  source = TaskSource('micro', 1, made)

  def check(overlay, recipe, space):
    return check_live(recipe, overlay, space, tokenizer, source, tokens=8192, steps=8)

  assert check(
    live, Recipe(loss=dataclasses.replace(Recipe().loss, reasoning_weight=2.0)), space
  ) == {'loss.reasoning_weight': 'batches'}
  puzzles = dataclasses.replace(
    inputs.constitution,
    search_space=constitution_lib.SearchSpaceText(
      {'d': {'difficulty.extra_examples': {'kind': 'int', 'low': 0, 'high': 1}}}
    ),
  )
  with pytest.raises(DeadBindingError, match=r'difficulty\.extra_examples'):
    check(
      parse_statements('difficulty.extra_examples = 1'),
      Recipe(difficulty=dataclasses.replace(Recipe().difficulty, extra_examples=1)),
      puzzles.space(),
    )


@pytest.mark.slow
def test_a_campaign_of_both_runs_and_audits(tiny_home, run_campaign, prepared, rewrite):
  from aevo_jax.campaign.decisions.state import fold
  from aevo_jax.ledger.append import read
  from aevo_jax.report.audit import checks

  run = tiny_home / 'own_finished'
  small = (
    'budget.rounds = 1',
    'budget.workers = 2',
    'budget.trial_tokens = 8192',
    'budget.trial_steps = 4',
    'release.per_round = 2',
  )
  inputs = setup.prepare(
    run, constitution(*small), setup.CampaignSettings(), pathlib.Path(prepared[1].substrate_root)
  )
  run_campaign(types.SimpleNamespace(run=run, inputs=inputs, settings=setup.CampaignSettings()))
  state = fold(read(run / setup.LEDGER))
  assert (
    state.finished is not None
    and set(state.base['by_family']) == {'sums', 'differences', 'reversals', 'larger'}
    and state.base['verifier'] == 'number'
  )
  found = {f.check: f for f in checks.audit(run)}
  assert {f.status for f in found.values()} <= {checks.OK, checks.WARNING} and '800 tasks' in found[
    'tasks'
  ].detail
  lines = (run / sets.TASKS).read_text().splitlines(keepends=True)
  rewrite(run / sets.TASKS, ''.join(lines[:-1]))
  assert 'tasks' in {f.check for f in checks.audit(run) if f.status == checks.FAILED}
