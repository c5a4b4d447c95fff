"""The winner: fixed before anything was scored, sealed, and labelled as what it is."""

import dataclasses
import json
import pathlib
import sys
from unittest import mock

import pytest

from aevo_jax.campaign.setup.setup import LEDGER
from aevo_jax.campaign.trial.spec import EXPORT
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.ledger.append import read
from aevo_jax.ledger.records import GENESIS_HASH, canonical_json, make_record
from aevo_jax.report import model_card, winner
from aevo_jax.report.audit.audited_run import AuditedRun
from aevo_jax.report.run_view import RunView
from aevo_jax.report.winner import NoWinnerError


def forge(run: pathlib.Path, rewrite, change) -> None:
  """Rewrites the ledger with change(records), as a valid chain with a valid head."""
  chained = []
  for record in change(read(run / LEDGER)):
    chained.append(
      make_record(
        len(chained),
        record.kind,
        record.time,
        record.payload,
        chained[-1].hash if chained else GENESIS_HASH,
      )
    )
  rewrite(run / LEDGER, b''.join(r.line() for r in chained))
  rewrite(
    run / 'ledger.head', canonical_json({'seq': chained[-1].seq, 'hash': chained[-1].hash}) + b'\n'
  )


def last_standing(standing: dict):
  """A change for `forge`: what the last policy promoted."""

  def change(records):
    index = max(i for i, r in enumerate(records) if r.kind == 'policy_written')
    payload = json.loads(json.dumps(records[index].payload))
    payload['policy']['standing'] = standing
    return [
      *records[:index],
      dataclasses.replace(records[index], payload=payload),
      *records[index + 1 :],
    ]

  return change


@pytest.fixture
def promoted(run_copy, rewrite):
  """The finished tiny campaign as if it had promoted something."""
  forge(run_copy, rewrite, last_standing({'optimizer.learning_rate': 0.002}))
  return run_copy


def test_it_is_the_first_retraining_of_the_promoted_recipe(promoted):
  found = winner.find(AuditedRun(promoted))
  assert (found.trial.trial, found.promoted, found.directory) == (
    'promoted0',
    True,
    promoted / 'trials' / 'promoted0',
  )
  assert (found.base / 'tokenizer.json').is_file() and 'optimizer.learning_rate' in found.recipe
  other = winner.find(AuditedRun(promoted), starting=True)
  assert (other.trial.trial, other.promoted) == ('starting0', False)


def test_nothing_promoted_is_said_and_the_starting_recipe_needs_to_be_asked_for(run_copy, rewrite):
  forge(run_copy, rewrite, last_standing({}))
  with pytest.raises(NoWinnerError, match=r'promoted nothing.*--starting'):
    winner.find(AuditedRun(run_copy))
  run = AuditedRun(run_copy)
  found = winner.find(run, starting=True)
  assert found.trial.trial == 'starting0'
  card = model_card.text(
    run, RunView(run_copy), found, adapter=False, base_model='a base', code='a commit'
  )
  assert 'The promoted recipe' not in card and '| promoted' not in card
  assert 'Nothing was promoted: two sets of seeds of the starting recipe differ by' in card
  assert '| starting recipe, other seeds |' in card


def test_an_unfinished_run_has_no_winner(promoted, rewrite, tmp_path):
  forge(promoted, rewrite, lambda records: records[:-1])
  with pytest.raises(NoWinnerError, match='is unfinished; finish it with: aevo campaign --resume='):
    winner.find(AuditedRun(promoted))
  with pytest.raises(NoWinnerError, match='is not a run'):
    winner.find(AuditedRun(tmp_path / 'nowhere'))


def without_final_score(records):
  return [
    r
    for r in records
    if not (r.kind == 'final_candidate_scored' and r.payload['trial'] == 'promoted0')
  ]


def with_other_code(run: pathlib.Path) -> str:
  fields = json.loads((run / 'substrate.json').read_text())
  fields['code_tree']['digest'] = 'f' * 64
  return json.dumps(fields)


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (
      lambda run, rewrite: rewrite(
        run / 'trials/promoted0' / EXPORT,
        (run / 'trials/promoted0' / EXPORT).read_bytes()[:-1] + b'x',
      ),
      'model.safetensors changed',
    ),
    (
      lambda run, rewrite: rewrite(run / 'trials/promoted0/recipe.gin', '# mine'),
      'recipe.gin changed',
    ),
    (lambda run, rewrite: rewrite(run / 'trials/promoted0/new.txt', ''), 'is not what was sealed'),
    (
      lambda run, rewrite: (run / 'trials/promoted0' / EXPORT).unlink(),
      'model.safetensors is missing',
    ),
    (
      lambda run, rewrite: rewrite(
        run / 'constitution.gin', (run / 'constitution.gin').read_text() + '\n'
      ),
      'is not the one the run began with',
    ),
    (
      lambda run, rewrite: rewrite(run / 'substrate.json', with_other_code(run)),
      'substrate.json is not the substrate that the run began with',
    ),
    (
      lambda run, rewrite: rewrite(run / 'substrate.json', '{}'),
      'substrate.json: the top level must be .*; restore it from a copy',
    ),
    (lambda run, rewrite: (run / 'substrate.json').unlink(), 'substrate.json is missing'),
    (
      lambda run, rewrite: forge(run, rewrite, without_final_score),
      'no retraining of the promoted recipe could be scored',
    ),
  ],
)
def test_what_is_not_sealed_is_not_handed_out(promoted, rewrite, change, said):
  change(promoted, rewrite)
  with pytest.raises(NoWinnerError, match=said):
    winner.find(AuditedRun(promoted))


def test_the_card_names_scores_and_digests(promoted):
  run = AuditedRun(promoted)
  found, records = winner.find(run), read(promoted / LEDGER)
  text = model_card.text(
    run, RunView(promoted), found, adapter=False, base_model='a base', code='a commit'
  )
  started, score = (
    records[0].payload,
    next(r for r in records if r.kind == 'final_scored').payload['scores']['promoted0']['overall'],
  )
  for said in (
    started['substrate'],
    started['constitution'],
    started['base_digest'],
    started['commitment'],
    records[-1].hash,
    found.trial.candidate,
    found.trial.export_file,
    str(found.trial.seed),
    f'| this model | {score["accuracy"]:.3f} [{score["low"]:.3f}, {score["high"]:.3f}] | 1 |',
    'on 60 final items',
    '| base |',
    found.recipe,
    "# Weights of a campaign's promoted recipe\n",
  ):
    assert said in text, said
  starting = model_card.text(
    run,
    RunView(promoted),
    winner.find(run, starting=True),
    adapter=True,
    base_model='a base',
    code='a commit',
  )
  assert "# LoRA adapter of a campaign's starting recipe, NOT a promoted one\n" in starting
  assert 'lines of a fixed file' not in text
  run.constitution = dataclasses.replace(
    run.constitution, tasks=constitution_lib.Tasks('mine.jsonl', 'a' * 64)
  )
  assert 'lines of a fixed file' in model_card.text(
    run, RunView(promoted), found, adapter=False, base_model='a base', code='a commit'
  )


@pytest.mark.parametrize('adapter', [False, True])
def test_the_cards_program_runs(promoted, monkeypatch, adapter):
  """With the libraries replaced: every name is imported, the tokenizer loaded, and the answer as
  long as in the evaluations.
  """
  libraries = {name: mock.MagicMock() for name in ('transformers', 'peft')}
  for name, library in libraries.items():
    monkeypatch.setitem(sys.modules, name, library)
  run = AuditedRun(promoted)
  text = model_card.text(
    run, RunView(promoted), winner.find(run), adapter=adapter, base_model='a base', code='a commit'
  )
  exec(text.partition('```python\n')[2].partition('```')[0], {})
  bare = libraries['transformers'].AutoModelForCausalLM.from_pretrained
  libraries['transformers'].AutoTokenizer.from_pretrained.assert_called_once_with('DIRECTORY')
  bare.assert_called_once_with('BASE_DIRECTORY' if adapter else 'DIRECTORY')
  if adapter:
    libraries['peft'].PeftModel.from_pretrained.assert_called_once_with(
      bare.return_value, 'DIRECTORY'
    )
  model = libraries['peft'].PeftModel.from_pretrained.return_value if adapter else bare.return_value
  model.generate.assert_called_once_with(
    do_sample=False, max_new_tokens=run.constitution.objective.max_new_tokens
  )
