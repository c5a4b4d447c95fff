"""What people brought that once went wrong, each given to the command that met it.

One test is one case: the files that they had, the command that they typed, and what they must be
told. Tests of the parts, with their siblings in tables, lie beside the parts; those that fill a
disk lie in launch/test_train.py and campaign/test_machine_faults.py.
"""

import fcntl
import json
import pathlib
import shutil
import time

import numpy as np
import pytest
import saved_base
from aevo_command import aevo
from safetensors.numpy import load_file

from aevo_jax.config.search_space import SearchSpace
from aevo_jax.meta_agent.llm import reply
from aevo_jax.meta_agent.llm.dialogue import ReplyError
from aevo_jax.tasks import own_data, verify

STEPS = ('--steps=2', '--tokens=100000')


@pytest.fixture
def tasks(tmp_path) -> pathlib.Path:
  return saved_base.write_tasks(tmp_path / 'tasks.jsonl')


def train(base: pathlib.Path, tasks: pathlib.Path, *flags: str, out: pathlib.Path):
  return aevo('train', f'--base={base}', f'--tasks={tasks}', f'--out={out}', *STEPS, *flags)


def succeeded(result) -> str:
  """What a command printed that ended well."""
  assert result.returncode == 0, result.stdout + result.stderr
  return result.stdout + result.stderr


def refused(result) -> str:
  """What a command said that was refused: in sentences, not in a traceback."""
  assert result.returncode not in (0, None), result.stdout
  assert 'Traceback' not in result.stderr
  return result.stdout + result.stderr


def test_an_export_names_the_dtype_that_is_there(tmp_path, tasks):
  base = saved_base.write(tmp_path / 'base', config={'dtype': 'bfloat16'})
  succeeded(
    train(
      base,
      tasks,
      '--gin.optimizer.learning_rate=1e-6',
      '--gin.optimizer.warmup_fraction=0.0',
      out=tmp_path / 'run',
    )
  )
  export = tmp_path / 'run' / 'export'
  dtypes = {str(value.dtype) for value in load_file(export / 'model.safetensors').values()}
  config = json.loads((export / 'config.json').read_text())
  labels = {config[name] for name in ('dtype', 'torch_dtype') if name in config}
  assert dtypes == labels == {'float32'}


def test_a_finished_run_is_left_as_it_is(tmp_path, tasks):
  base = saved_base.write(tmp_path / 'base')
  run = tmp_path / 'run'
  assert 'weights written to' in succeeded(train(base, tasks, out=run))
  (run / 'export' / 'README.md').write_text('a card that somebody wrote')
  before = (run / 'command.json').read_bytes()
  said = succeeded(train(base, tasks, out=run))
  assert 'the run was complete already, no step was left' in said and 'written' not in said
  assert (run / 'export' / 'README.md').read_text() == 'a card that somebody wrote'
  assert (run / 'command.json').read_bytes() == before
  shutil.rmtree(run / 'export')
  said = succeeded(train(base, tasks, out=run))
  assert 'no step was left; weights written to' in said
  assert (run / 'export' / 'model.safetensors').is_file()


def test_an_export_keeps_the_mtp_tensors_or_says_that_they_are_gone(tmp_path, tasks):
  base = saved_base.write(
    tmp_path / 'base', saved_base.NEMOTRON_H, config={'num_nextn_predict_layers': 1}, mtp=True
  )
  said = succeeded(train(base, tasks, out=tmp_path / 'run'))
  export = tmp_path / 'run' / 'export'
  kept = [name for name in load_file(export / 'model.safetensors') if name.startswith('mtp.')]
  layers = json.loads((export / 'config.json').read_text())['num_nextn_predict_layers']
  assert (len(kept), layers) in ((2, 1), (0, 0))
  assert kept or 'mtp' in said.lower()


def test_the_generation_tag_is_rendered_and_trains_what_the_plain_template_does(tmp_path, tasks):
  templates = {'plain': saved_base.CHATML, 'marked': saved_base.CHATML_WITH_GENERATION}
  weights = []
  for name, template in templates.items():
    base = saved_base.write(tmp_path / name, template=template)
    succeeded(train(base, tasks, out=tmp_path / f'{name}_run'))
    weights.append(load_file(tmp_path / f'{name}_run' / 'export' / 'model.safetensors'))
  plain, marked = weights
  assert all(np.array_equal(plain[name], marked[name]) for name in plain)


def test_settings_left_in_tokenizer_json_cut_no_prompt(tmp_path, tasks):
  """The same weights as of a tokenizer.json without the block."""
  truncation = {'max_length': 16, 'strategy': 'LongestFirst', 'stride': 0, 'direction': 'Right'}
  weights = []
  for name, block in {'clean': {}, 'left': {'truncation': truncation}}.items():
    base = saved_base.write(tmp_path / name, tokenizer_json=block)
    succeeded(train(base, tasks, out=tmp_path / f'{name}_run'))
    weights.append(load_file(tmp_path / f'{name}_run' / 'export' / 'model.safetensors'))
  clean, left = weights
  assert all(np.array_equal(clean[name], left[name]) for name in clean)


def test_infinity_as_transformers_tags_it_is_read(tmp_path, tasks):
  limits = [0.0, {'__float__': 'Infinity'}]
  base = saved_base.write(
    tmp_path / 'base', saved_base.NEMOTRON_H, config={'time_step_limit': limits}
  )
  succeeded(aevo('import_hf', base, f'--out={tmp_path / "imported"}'))
  succeeded(train(base, tasks, out=tmp_path / 'run'))
  succeeded(aevo('substrate', 'build', f'--from_hf={base}', f'--out={tmp_path / "substrate"}'))


def test_turns_that_end_otherwise_than_the_template_are_remarked(tmp_path, tasks):
  base = saved_base.write(
    tmp_path / 'base', tokenizer_config={'eos_token': '<|endoftext|>', 'pad_token': '<unk>'}
  )
  for result in (
    train(base, tasks, out=tmp_path / 'run'),
    aevo('substrate', 'build', f'--from_hf={base}', f'--out={tmp_path / "substrate"}'),
  ):
    said = succeeded(result)
    assert "'<|im_end|>'" in said and "'<|endoftext|>'" in said


@pytest.mark.parametrize(
  'command',
  [
    ('train', '--base={base}', '--tasks={tasks}', '--out={out}', *STEPS),
    (
      *('train', '--base={base}', '--gin_file=configs/algorithms/grpo.gin', '--rl_steps=1'),
      *('--tasks={tasks}', '--out={out}'),
    ),
    ('evaluate', '{base}', '--items=4'),
    ('import_hf', '{base}', '--out={out}'),
    ('substrate', 'build', '--from_hf={base}', '--out={out}'),
  ],
  ids=['sft', 'grpo', 'evaluate', 'import_hf', 'substrate_build'],
)
def test_a_tokenizer_larger_than_the_model_is_refused_at_every_entrance(tmp_path, tasks, command):
  base = saved_base.write(tmp_path / 'base', more_tokens=20)
  names = {'base': base, 'tasks': tasks, 'out': tmp_path / 'out'}
  said = refused(aevo(*(argument.format(**names) for argument in command)))
  assert '112' in said and 'vocab' in said
  assert not (tmp_path / 'out').exists()


def test_two_answers_in_one_line_are_refused(tmp_path, tasks):
  lines = tasks.read_text().splitlines(keepends=True)
  lines[0] = lines[0].replace('"family"', '"answer": "7", "family"')
  tasks.write_text(''.join(lines))
  base = saved_base.write(tmp_path / 'base')
  said = refused(train(base, tasks, out=tmp_path / 'run'))
  assert 'tasks.jsonl:1' in said and 'answer' in said


def test_a_byte_order_mark_is_read(tmp_path, tasks):
  """In tasks and in gin files, as Windows editors save them."""
  plain = own_data.read(tasks).items
  tasks.write_bytes(b'\xef\xbb\xbf' + tasks.read_bytes())
  assert own_data.read(tasks).items == plain
  recipe = tmp_path / 'recipe.gin'
  recipe.write_bytes(b'\xef\xbb\xbfoptimizer.learning_rate = 1e-3\n')
  base = saved_base.write(tmp_path / 'base')
  succeeded(train(base, tasks, f'--gin_file={recipe}', out=tmp_path / 'run'))
  recorded = json.loads((tmp_path / 'run' / 'train.json').read_text())
  assert recorded['recipe']['optimizer']['learning_rate'] == 1e-3


def test_a_decimal_comma_is_no_thousand(tmp_path, tasks):
  lines = tasks.read_text().splitlines(keepends=True)
  lines[3] = lines[3].replace('"answer": "13"', '"answer": "0,125"')
  assert '0,125' in lines[3]
  tasks.write_text(''.join(lines))
  with pytest.raises(own_data.TaskFileError, match=r'tasks.jsonl:4: .*0,125'):
    own_data.read(tasks, verifier='number')
  for answer, right in {'0.125': True, '0,125': False, '125': False}.items():
    assert verify.is_correct(f'\\boxed{{{answer}}}', 'sums', '0.125', 'number') is right


def test_a_completion_of_openings_is_read_in_proportion_to_its_length():
  """Eight times the text takes nowhere near 64 times as long; a quadratic reader took 3 s."""
  for text in ('\\boxed{', '\\boxed{x '):
    seconds = []
    for count in (20_000, 160_000):
      begin = time.process_time()
      verify.extract_boxed(text * count)
      seconds.append(time.process_time() - begin)
    assert seconds[1] < 24 * seconds[0] + 0.05


def test_a_damaged_checkpoint_is_named_with_the_step_before(tmp_path, tasks):
  base = saved_base.write(tmp_path / 'base')
  flags = ('--checkpoint_every=1',)
  succeeded(train(base, tasks, *flags, out=tmp_path / 'run'))
  export = tmp_path / 'run' / 'export' / 'model.safetensors'
  whole = load_file(export)
  shutil.rmtree(export.parent)
  latest = tmp_path / 'run' / 'checkpoints' / 'step_00000002'
  for path in latest.iterdir():
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  said = refused(train(base, tasks, *flags, out=tmp_path / 'run'))
  assert str(latest) in said and 'step 1' in said
  shutil.rmtree(latest)
  succeeded(train(base, tasks, *flags, out=tmp_path / 'run'))
  again = load_file(export)
  assert all(np.array_equal(again[name], whole[name]) for name in whole)


@pytest.mark.parametrize('campaign', ['quickstart', 'smoke', 'no_external', 'reinforcement'])
def test_a_dry_run_prints_trials_hours_and_disk(campaign):
  said = succeeded(aevo('campaign', f'--gin_file=configs/campaigns/{campaign}.gin', '--dry_run'))
  assert all(line in said for line in ('\ntraining tokens ', '\ntime ', '\ndisk '))


@pytest.mark.parametrize(
  ('binding', 'reason'),
  [
    ('lora.rank=16', "adaptation.method = 'full'"),
    ('optimizer.decay_fraction=0.3', 'optimizer.schedule'),
    ('family_weight.unit_conversion=2.0', '--tasks'),
    ("solution_style.unit_conversion='steps'", '--tasks'),
    ('reward.format=0.5', "method.name = 'sft'"),
  ],
)
def test_a_binding_that_nothing_reads_is_refused(tmp_path, tasks, binding, reason):
  base = saved_base.write(tmp_path / 'base')
  said = refused(train(base, tasks, f'--gin.{binding}', out=tmp_path / 'run'))
  assert binding.partition('=')[0] in said and reason in said
  assert not (tmp_path / 'run').exists()


def test_two_trainers_do_not_share_a_directory(tmp_path, tasks):
  """The second is refused, and the first goes on; here the first is this test."""
  base = saved_base.write(tmp_path / 'base')
  out = tmp_path / 'run'
  out.mkdir()
  with (out / '.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert 'another process trains' in refused(train(base, tasks, out=out))
  succeeded(train(base, tasks, out=out))


def test_each_step_is_logged_once_after_a_kill(tmp_path, tasks):
  """A run that was killed after its third step goes on from its second, which it had saved."""
  base = saved_base.write(tmp_path / 'base')
  out = tmp_path / 'run'
  flags = (f'--base={base}', f'--tasks={tasks}', f'--out={out}', '--tokens=100000')
  flags += ('--steps=4', '--checkpoint_every=2')
  succeeded(aevo('train', *flags))
  metrics = out / 'metrics.jsonl'
  rows = metrics.read_text().splitlines(keepends=True)
  shutil.rmtree(out / 'export')
  shutil.rmtree(out / 'checkpoints' / 'step_00000004')
  metrics.write_text(''.join(rows[:3]))
  succeeded(aevo('train', *flags))
  steps = [json.loads(line)['step'] for line in metrics.read_text().splitlines()]
  assert steps == [0, 1, 2, 3]


def test_replay_ledger_asks_which_way_is_better(tmp_path):
  """Of a dev loss that falls while the external score rises: no reversal."""
  rows = [f'm{i},{1.9 - 0.02 * i:.3f},{0.4 + 0.01 * i:.3f}' for i in range(32)]
  table = tmp_path / 'lower.csv'
  table.write_text('\n'.join(['name,loss,ext', *rows]) + '\n')
  assert '--lower_is_better' in refused(aevo('replay_ledger', table, '--external_column=ext'))
  said = succeeded(aevo('replay_ledger', table, '--external_column=ext', '--lower_is_better=loss'))
  assert 'ALARM' not in said


def test_replay_ledger_takes_no_memory_and_no_crash_for_a_score(tmp_path):
  """Of the table that autoresearch writes."""
  rows = [f'c{i}\t{1.0 - 0.002 * i:.6f}\t44.{i % 10}\tkeep\ttry {i}' for i in range(30)]
  rows[5] = 'c5\t0.000000\t0.0\tcrash\ttry 5'
  table = tmp_path / 'results.tsv'
  table.write_text('\n'.join(['commit\tval_bpb\tmemory_gb\tstatus\tdescription', *rows]) + '\n')
  flags = ('--external_column=val_bpb', '--lower_is_better=val_bpb')
  result = aevo('replay_ledger', table, *flags)
  said = result.stdout + result.stderr
  assert 'memory_gb' in said and 'ALARM' not in said and 'Traceback' not in said


def test_the_object_after_the_thinking_is_the_policy():
  space = SearchSpace.from_literals(
    {'batch': {'train.batch_rows': {'kind': 'choice', 'choices': [2, 4, 8]}}}
  )

  def policy(rows: int) -> str:
    return json.dumps({'assignments': [{'bindings': {'train.batch_rows': rows}, 'reason': 'r'}]})

  for text in (
    f'<think>\nFirst: {policy(2)}\nNo, 8.\n</think>\n\n{policy(8)}',
    f'Draft:\n```json\n{policy(2)}\n```\nFinal:\n```json\n{policy(8)}\n```',
    f'I choose from {{2, 4, 8}}:\n{policy(8)}',
  ):
    read = reply.read_policy(text, 1, {}, space, {'train.batch_rows': 4})
    assert [a.changes for a in read.assignments] == [{'train.batch_rows': 8}]
  for text in (f'<think>\n{policy(2)} maybe', policy(2)[:-1] + ', ' + policy(8)[1:]):
    with pytest.raises(ReplyError):
      reply.read_policy(text, 1, {}, space, {'train.batch_rows': 4})
