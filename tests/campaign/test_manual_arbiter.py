"""The challenge's kind of campaign, run on the micro model:
configs/campaigns/nemotron3_nano_30b.gin with everything small. LoRA alone, scored by somebody else.
"""

import dataclasses
import json
import pathlib
import shutil

import pytest

import aevo_jax
from aevo_jax import layout
from aevo_jax.campaign import manual_arbiter
from aevo_jax.campaign.campaign import Campaign
from aevo_jax.campaign.decisions.state import fold
from aevo_jax.campaign.setup import setup, validation
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.configurables import resolve
from aevo_jax.ledger.append import Ledger, read
from aevo_jax.models.hf import checkpoint, peft_adapter
from aevo_jax.report import model_card
from aevo_jax.report import winner as winner_lib
from aevo_jax.report.audit import checks
from aevo_jax.report.audit.audited_run import AuditedRun
from aevo_jax.report.final_table import final_table
from aevo_jax.report.page import html
from aevo_jax.report.run_view import RunView
from aevo_jax.substrate import build, manifest

SMALL = (
  'budget.rounds = 1',
  'budget.workers = 2',
  'budget.noise_seeds = 2',
  'reversal.blind = True',
  'budget.trial_tokens = 2048',
  'budget.trial_steps = 2',
  'dev_set.items = 20',
  'release.per_round = 2',
  "objective.size = 'micro'",
  'objective.max_new_tokens = 24',
)
LORA = "adaptation.method = 'lora'\nlora.rank = 8\nlora.targets = 'attention_mlp'\n"
# Ranks alone: with two steps a warm-up, for one, would be dead.
RANKS = (
  "search_space.axes = {'adapter': {'lora.rank': {'kind': 'choice', 'choices': [16, 32], "
  "'when': {'adaptation.method': ['lora']}}}}"
)
SCORES = {'r0w0': 0.5, 'r0w1': 0.52, 'r1w0': 0.51, 'r1w1': 0.53, 'promoted0': 0.54}


def challenge(*bindings: str):
  loading.load(
    [str(layout.root_file('constitution.gin')), 'configs/campaigns/nemotron3_nano_30b.gin'],
    [*SMALL, *bindings],
    search_paths=layout.search_paths(),
  )
  return constitution_lib.from_gin(), resolve('campaign')


def substrate(folder: pathlib.Path, recipe: str) -> pathlib.Path:
  shutil.copytree(layout.root_file('substrate'), folder)
  with (folder / 'recipe.gin').open('a') as file:
    file.write(recipe)
  manifest.write(
    folder / build.MANIFEST,
    build.measure(folder, pathlib.Path(aevo_jax.__file__).resolve().parent.parent),
  )
  return folder


def proceed(run: pathlib.Path) -> str:
  """Runs as far as it comes; what it waits for."""
  inputs, settings = setup.reload(run)
  with Ledger.open(run / setup.LEDGER) as ledger:
    try:
      Campaign(run, ledger, settings, inputs, lambda record: None).run()
    except manual_arbiter.WaitingForScoresError as waiting:
      return str(waiting)
  return ''


@pytest.fixture(scope='module')
def run(tiny_home) -> pathlib.Path:
  """A finished campaign. What it said on the way lies in said.json."""
  run, said = tiny_home / 'manual', []
  setup.prepare(run, *challenge(RANKS), substrate(tiny_home / 'lora_substrate', LORA))
  while message := proceed(run):
    said.append(message)
    state = fold(read(run / setup.LEDGER))
    for trial in state.waiting:
      manual_arbiter.submit(run, trial, SCORES[trial], 'by hand')
  (run / 'said.json').write_text(json.dumps(said))
  return run


def test_every_submission_is_an_adapter_of_the_sealed_trial_within_the_limit(run):
  state, config = (
    fold(read(run / setup.LEDGER)),
    checkpoint.read_config(layout.root_file('substrate') / 'base'),
  )
  assert sorted(p.name for p in (run / 'submissions').iterdir()) == sorted(SCORES)
  assert len({state.trials[t].overlay for t in SCORES}) == 2
  for trial in SCORES:
    adapter = peft_adapter.load(run / 'submissions' / trial / 'adapter', config)
    assert 0 < adapter.rank <= peft_adapter.CHALLENGE_MAX_RANK and adapter.params
    fields = json.loads(
      (run / 'submissions' / trial / 'adapter' / 'adapter_config.json').read_text()
    )
    assert fields['base_model_name_or_path'].startswith('nvidia/')
    text = (run / 'submissions' / trial / 'README.txt').read_text()
    assert (
      f'aevo submit_score {run} {trial} SCORE --digest={state.trials[trial].submission["digest"]}'
      in text
      and state.trials[trial].candidate in text
    )
  said = json.loads((run / 'said.json').read_text())
  assert [('r0w0' in s, 'r1w1' in s, 'promoted0' in s) for s in said] == [
    (True, False, False),
    (False, True, False),
    (False, False, True),
  ]


def test_it_needs_no_holdout_and_claims_nothing_that_was_not_scored(run):
  state = fold(read(run / setup.LEDGER))
  assert state.finished is not None and state.final is None and state.revealed is None
  assert {t: state.trials[t].submitted for t in SCORES} == SCORES
  assert (
    'starting0' not in state.trials
    and not list((run / 'scores').glob('*.final.json'))
    and not list((run / 'scores').glob('*.external.json'))
  )
  view = RunView(run)
  table = final_table(view)
  assert (
    'no private final set, and no gain is claimed' in table
    and 'promoted0' in table
    and '0.54, as handed in' in table
    and 'final accuracy' not in table
  )
  page = html.render(view)
  assert (
    'Scored by somebody else' in page
    and 'score 0.54, as handed in' in page
    and 'with the arbiter until' not in page
  )
  winner = winner_lib.find(AuditedRun(run))
  card = model_card.text(
    AuditedRun(run), view, winner, adapter=True, base_model='a base', code='a commit'
  )
  assert (
    winner.trial.trial == 'promoted0' and 'handed in as 0.54' in card and 'scored once' not in card
  )


def test_the_audit_recomputes_what_followed_from_the_scores(run):
  found = {f.check: f for f in checks.audit(run)}
  assert {name for name, f in found.items() if f.status == checks.NOT_APPLICABLE} == {
    'commitment',
    'external scores',
    'concordance',
    'final scores',
  }
  assert {f.status for f in found.values()} <= {checks.OK, checks.WARNING, checks.NOT_APPLICABLE}, (
    found
  )
  assert '5 submissions as exported, 5 scores handed in' in found['submissions'].detail


@pytest.mark.parametrize(
  ('file', 'check'),
  [
    ('submissions/r1w1/adapter/adapter_config.json', 'submissions'),
    ('scores/r1w1.dev.json', 'dev scores'),
  ],
)
def test_a_changed_file_fails_its_check(run, tmp_path, file, check):
  copy = tmp_path / 'run'
  shutil.copytree(run, copy)
  path = copy / file
  path.write_text(
    path.read_text().replace(': ', ':  ', 1)
    if 'adapter' in file
    else path.read_text().replace('"correct": ', '"correct": 1', 1)
  )
  assert {f.check for f in checks.audit(copy) if f.status == checks.FAILED} == {check}


@pytest.mark.parametrize(
  ('bindings', 'recipe', 'said'),
  [
    ((), '', "adaptation.method = 'full'"),
    ((), LORA.replace('8', '64'), 'lora.rank = 64'),
    (
      (
        (
          "search_space.axes = {'a': {'adaptation.method': {'kind': 'choice', 'choices': "
          "['full', 'lora']}}}"
        ),
      ),
      LORA,
      'offers adaptation.method',
    ),
    (
      ("search_space.axes = {'a': {'lora.rank': {'kind': 'int', 'low': 2, 'high': 64}}}",),
      LORA,
      'lora.rank up to 64',
    ),
  ],
)
def test_what_could_train_no_small_adapter_is_refused_before_anything_is_made(
  tiny_home, tmp_path, bindings, recipe, said
):
  constitution, settings = challenge(*bindings)
  with pytest.raises(validation.InvalidCampaignError, match=said):
    setup.prepare(
      tmp_path / 'run', constitution, settings, substrate(tmp_path / 'substrate', recipe)
    )
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('agent', 'budget', 'said'),
  [
    ('statistical', {'workers': 1}, 'no explorer'),
    ('keep_or_discard', {}, 'one trial a round'),
    ('frozen', {'wall_clock_s': 60.0}, 'wall_clock_s'),
  ],
)
def test_agents_and_budgets_that_do_not_go_together(agent, budget, said):
  constitution, _ = challenge()
  with pytest.raises(validation.InvalidCampaignError, match=said):
    validation.check(
      dataclasses.replace(constitution, budget=dataclasses.replace(constitution.budget, **budget)),
      agent,
      None,
    )
