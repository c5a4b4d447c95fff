"""audit, campaign, trial, evaluate, substrate and export as a person types them."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import yaml
from aevo_command import aevo
from safetensors.numpy import load_file, save_file

from aevo_jax import layout
from aevo_jax.campaign.decisions.state import fold
from aevo_jax.campaign.trial.spec import EXPORT
from aevo_jax.checkpoint.digest import logical_digest
from aevo_jax.ledger.append import read


def tensors(path: pathlib.Path) -> str:
  return logical_digest(load_file(path))


# -- audit ---------------------------------------------------------------------------------------


def test_audit_prints_a_line_a_check_and_exits_0(tiny_run):
  result = aevo('audit', tiny_run)
  assert result.returncode == 0, result.stdout + result.stderr
  lines = result.stdout.splitlines()
  assert lines[0].split()[:2] == ['ok', 'ledger'] and lines[-1].endswith('none failed')
  assert not any('FAILED' in line for line in lines)


def test_audit_exits_1_on_a_failure_and_names_it(run_copy, rewrite):
  rewrite(run_copy / 'evidence' / 'round_001.json', '{}')
  result = aevo('audit', run_copy, '--json')
  assert result.returncode == 1
  findings = {f['check']: f for f in json.loads(result.stdout)['findings']}
  assert [name for name, f in findings.items() if f['status'] == 'FAILED'] == ['evidence']
  assert 'evidence/round_001.json' in findings['evidence']['detail']


# -- campaign ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'flag', ['--dry_run', '--gin.budget.rounds=1', '--gin_file=configs/campaigns/smoke.gin']
)
def test_an_interrupted_campaign_goes_on_as_it_began(tmp_path, flag):
  result = aevo('campaign', f'--resume={tmp_path}', flag)
  assert (
    result.returncode == 1
    and '--resume takes neither --dry_run nor gin' in result.stdout + result.stderr
  )


@pytest.mark.parametrize(
  ('flag', 'said'),
  [
    ('--gin.budget.rounds=0', 'budget.rounds must be >= 1'),
    ("--gin.budget.noise_seeds='x'", 'expects int'),
    ('--gin.budgt.rounds=1', 'budget'),
  ],
)
def test_a_wrong_budget_is_a_sentence(flag, said):
  result = aevo('campaign', '--dry_run', flag)
  assert result.returncode == 1 and said in result.stderr and 'Traceback' not in result.stderr


def test_mistakes_in_several_sections_are_said_at_once():
  result = aevo(
    'campaign',
    '--dry_run',
    '--gin.campaign.threads=0',
    '--gin.dev_set.items=-1',
    '--gin.optimizer.learning_rate=-1.0',
    '--gin.budget.rounds=x',
  )
  assert result.returncode == 1 and 'Traceback' not in result.stderr
  for said in (
    'campaign.threads must be >= 1, got 0',
    'dev_set.items must be >= 1, got -1',
    'optimizer.learning_rate must',
    'budget.rounds expects int',
  ):
    assert said in result.stderr


# -- trial ---------------------------------------------------------------------------------------


def test_trial_says_what_it_was(tiny_run):
  trial = fold(read(tiny_run / 'ledger.jsonl')).trials['r1w1']
  result = aevo('trial', tiny_run, 'r1w1')
  assert result.returncode == 0, result.stderr
  for said in (
    trial.axis,
    'sealed',
    f'{trial.claim["tokens"]:,} tokens',
    f'{trial.claim["steps"]} steps',
    trial.candidate,
    f'{trial.released:.2f}',
    f'{trial.dev["overall"]["accuracy"]:.3f}',
    'attempts   1',
    *(f'* {line}' for line in trial.overlay.splitlines()),
  ):
    assert said in result.stdout


def test_trial_reruns_bit_for_bit_and_notices_other_weights(tiny_run, tmp_path):
  candidate = fold(read(tiny_run / 'ledger.jsonl')).trials['r1w1'].candidate
  result = aevo('trial', tiny_run, 'r1w1', '--rerun', f'--out={tmp_path / "again"}')
  assert result.returncode == 0, result.stdout + result.stderr
  assert (
    f'reproduced bit for bit: candidate {candidate}' in result.stdout and 'NOT' not in result.stdout
  )
  assert 'loss' in result.stdout.splitlines()[0]
  assert tensors(tmp_path / 'again' / EXPORT) == candidate


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (('r1w7',), "did you mean 'r1w"),
    (('r1w1', '--gin.optimizer.learning_rate=1e-3'), 'aevo train'),
  ],
)
def test_trial_answers_mistakes(tiny_run, arguments, said):
  result = aevo('trial', tiny_run, *arguments)
  assert result.returncode == 1 and said in result.stdout + result.stderr


# -- evaluate ------------------------------------------------------------------------------------


def test_evaluate_gives_the_ledgers_dev_score(tiny_run):
  """Named by its file, with the constitution's 60 items as a binding."""
  recorded = fold(read(tiny_run / 'ledger.jsonl')).trials['r0w0'].dev
  result = aevo(
    'evaluate', tiny_run / 'trials' / 'r0w0' / EXPORT, '--gin_bindings=dev_set.items = 60', '--json'
  )
  assert result.returncode == 0, result.stderr
  reply = json.loads(result.stdout)
  assert {name: reply[name] for name in recorded} == recorded


def test_evaluate_prints_a_table_with_intervals(tmp_path):
  result = aevo(
    'evaluate', layout.root_file('substrate') / 'base', '--items=30', '--verifier=challenge'
  )
  assert result.returncode == 0, result.stderr
  assert (
    'on 30 dev items, challenge verifier' in result.stdout
    and 'overall, strict verifier' in result.stdout
  )
  assert (
    sum(
      line.startswith(('bit_', 'text_', 'numeral_', 'unit_', 'gravit', 'equation_')) and '[' in line
      for line in result.stdout.splitlines()
    )
    == 6
  )


def other_model(path: pathlib.Path) -> None:
  save_file({'model.embeddings.weight': np.zeros((2, 2), np.float32)}, path)


@pytest.mark.parametrize(
  ('make', 'flags', 'said'),
  [
    (None, (), 'there is no'),
    (lambda p: p.write_bytes(b'not weights'), (), 'no safetensors file'),
    (other_model, (), 'missing model.layers.0'),
    (other_model, ('--split=external',), 'give --secret_file'),
    (
      other_model,
      ('--split=final', '--secret_file=/nowhere.json'),
      '/nowhere.json: there is no such file',
    ),
  ],
)
def test_evaluate_answers_mistakes(tmp_path, make, flags, said):
  path = tmp_path / 'w'
  if make is not None:
    make(path)
  result = aevo('evaluate', path, *flags)
  assert result.returncode == 1 and said in result.stdout + result.stderr
  assert 'Traceback' not in result.stderr


@pytest.mark.parametrize('content', ['{"secret": "12"}', '[]'])
def test_evaluate_refuses_a_secret_that_is_none(tmp_path, content):
  (tmp_path / 's.json').write_text(content)
  other_model(tmp_path / 'w')
  result = aevo(
    'evaluate', tmp_path / 'w', '--split=external', f'--secret_file={tmp_path / "s.json"}'
  )
  assert result.returncode == 1 and 's.json' in result.stderr and 'Traceback' not in result.stderr


@pytest.mark.parametrize('command', [('audit',), ('trial', 'r1w1')])
def test_what_is_not_a_run_is_said_to_be_none(tmp_path, command):
  result = aevo(command[0], tmp_path, *command[1:])
  assert (
    result.returncode == 1 and 'is not a run' in result.stderr and 'Traceback' not in result.stderr
  )


# -- substrate and export ------------------------------------------------------------------------


def test_a_substrate_of_a_checkpoint_verifies_and_starts_a_campaign(tmp_path):
  out, base = tmp_path / 'mine', tmp_path / 'base'
  shutil.copytree(layout.root_file('substrate') / 'base', base)
  save_file(
    load_file(base / 'model.safetensors') | {f'mtp.{i}': np.ones(1, np.float32) for i in range(4)},
    base / 'model.safetensors',
  )
  made = aevo('substrate', 'build', f'--from_hf={base}', f'--out={out}')
  assert made.returncode == 0 and f'aevo campaign --substrate={out}' in made.stdout, made.stderr
  assert (
    'left behind, since the model does not use them: mtp.0, mtp.1, mtp.2, ... (4 in all)'
    in made.stdout
  )
  assert aevo('substrate', 'verify', f'--substrate={out}').returncode == 0
  with (out / 'recipe.gin').open('a') as file:
    file.write('train.ema_decay = 0.5\n')
  differs = aevo('substrate', 'verify', f'--substrate={out}')
  assert (
    differs.returncode == 1
    and 'recipe: manifest says' in differs.stderr
    and f'aevo substrate pin --substrate={out}' in differs.stderr
  )
  refused = aevo(
    'campaign',
    f'--substrate={out}',
    '--gin_file=configs/campaigns/own_data.gin',
    f'--run={tmp_path / "run"}',
  )
  assert (
    refused.returncode == 1
    and f'aevo substrate pin --substrate={out}' in refused.stderr
    and 'Traceback' not in refused.stderr
  )


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (('build', '--from_hf=/nowhere', '--out=OUT'), '--from_hf=/nowhere: there is no such file'),
    (('build', '--from_hf=/tmp', '--out=OUT'), '/tmp has no config.json'),
    (('build',), 'takes --from_hf=DIRECTORY'),
    (('verify', '--substrate=/nowhere'), '/nowhere'),
  ],
)
def test_substrate_answers_mistakes(tmp_path, arguments, said):
  result = aevo('substrate', *(a.replace('OUT', str(tmp_path / 'out')) for a in arguments))
  assert (
    result.returncode == 1
    and said in result.stdout + result.stderr
    and 'Traceback' not in result.stderr
  )


@pytest.mark.parametrize(
  ('path', 'flags', 'trial'),
  [
    ('', ('--starting',), 'starting0'),
    ('trials/r0w0', (), 'r0w0'),
    ('trials/r1w1/export', (), 'r1w1'),
    ('trials/r1w1/export/model.safetensors', ('--max_shard_size=1MB',), 'r1w1'),
  ],
)
def test_export_hf_takes_a_campaign_and_its_trials(tiny_run, tmp_path, path, flags, trial):
  out = tmp_path / 'model'
  result = aevo('export_hf', tiny_run / path, f'--out={out}', *flags)
  assert result.returncode == 0, result.stderr
  candidate = fold(read(tiny_run / 'ledger.jsonl')).trials[trial].candidate
  stored = {}
  for file in out.glob('*.safetensors'):
    stored |= load_file(file)
  assert logical_digest(stored) == candidate
  card = (out / 'README.md').read_text()
  assert candidate in card and trial in card
  fields = yaml.safe_load(card.split('---\n')[1])
  assert (fields['license'], fields['library_name']) == ('unknown', 'transformers')
  assert fields['base_model'].startswith('substrate/base of aevo_jax')
  for command in (
    ('evaluate', out, '--items=2', '--gin.objective.max_new_tokens=2'),
    ('substrate', 'build', f'--from_hf={out}', f'--out={tmp_path / "substrate"}'),
    ('import_hf', out, f'--out={tmp_path / "import"}'),
    ('train', f'--base={out}', '--steps=1', '--tokens=1024', f'--out={tmp_path / "run"}'),
  )[: 4 if trial == 'starting0' else 0]:
    taken = aevo(*command)
    assert taken.returncode == 0, (command, taken.stderr)


@pytest.mark.parametrize(
  ('path', 'flags', 'said'),
  [
    ('', ('--step=1',), '--step is of the checkpoints of a run'),
    ('trials/r0w0/checkpoints', (), "are a trial's checkpoints, which nothing seals"),
    ('trials/r0w0', ('--starting',), '--starting is of a campaign, and this is the sealed'),
    ('trials', (), 'holds nothing that can be exported; it takes a base'),
  ],
)
def test_export_hf_answers_mistakes_about_campaigns(tiny_run, tmp_path, path, flags, said):
  result = aevo('export_hf', tiny_run / path, f'--out={tmp_path / "x"}', *flags)
  assert result.returncode == 1 and said in result.stderr and 'Traceback' not in result.stderr
  assert not list(tmp_path.iterdir())


def test_export_writes_a_model_that_scores_as_the_ledger_says(tiny_run, tmp_path):
  out, records = tmp_path / 'model', read(tiny_run / 'ledger.jsonl')
  result = aevo('export', tiny_run, f'--out={out}', '--starting')
  assert result.returncode == 0, result.stderr
  assert sorted(p.name for p in out.iterdir()) == [
    'README.md',
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'tokenizer.json',
    'tokenizer_config.json',
  ]
  assert tensors(out / 'model.safetensors') == fold(records).trials['starting0'].candidate
  again = aevo('export', tiny_run, f'--out={out}', '--starting')
  assert again.returncode == 1 and f'--out={out}: it exists; choose another' in again.stderr
  adapter = aevo(
    'export',
    tiny_run,
    f'--out={tmp_path / "adapter"}',
    '--starting',
    '--adapter',
    '--base_name=base',
  )
  assert (
    adapter.returncode == 1
    and (
      "trained all weights (adaptation.method = 'full'); without --adapter the weights are exported"
    )
    in adapter.stderr
  )
  assert [p.name for p in tmp_path.iterdir()] == ['model']
