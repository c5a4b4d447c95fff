"""aevo train and pretrain as a person types them, judged by output and exit status."""

import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from aevo_command import aevo, aevo_process, environment
from safetensors.numpy import load_file, save_file

from aevo_jax import layout
from aevo_jax.campaign.decisions.state import fold
from aevo_jax.campaign.trial.spec import EXPORT
from aevo_jax.checkpoint.digest import logical_digest
from aevo_jax.ledger.append import read

# Stands for a full disk: every file a command itself writes meets ENOSPC. A command line has no
# argument for that, and to mount a small file system takes root.
FULL_DISK = """
import errno, pathlib, sys
def full(self, *arguments, **options):
  raise OSError(errno.ENOSPC, 'No space left on device', str(self))
pathlib.Path.write_text = full
from aevo_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""


def tensors(path: pathlib.Path) -> str:
  return logical_digest(load_file(path))


def test_train_does_what_a_trial_does(tiny_run, tmp_path):
  """The starting recipe with a trial's seed and budget gives that trial's weights; its export is a
  base of its own, which evaluates.
  """
  trial = fold(read(tiny_run / 'ledger.jsonl')).trials['starting0']
  out = tmp_path / 'out'
  result = aevo_process(
    'train',
    f'--out={out}',
    f'--seed={trial.seed}',
    '--tokens=8192',
    '--steps=4',
    prefix=('taskset', '-c', str(min(os.sched_getaffinity(0)))),
  )  # a trial has one thread
  assert result.returncode == 0, result.stdout + result.stderr
  assert tensors(out / EXPORT) == trial.candidate
  again = aevo(
    'train',
    f'--out={out}',
    f'--seed={trial.seed}',
    '--tokens=8192',
    '--steps=4',
    '--gin.optimizer.learning_rate=1e-4',
  )
  assert (
    again.returncode == 1
    and 'recipe.optimizer.learning_rate was 0.00025 and is 0.0001 now'
    in again.stdout + again.stderr
  )

  # The final score of these weights is in the ledger; the revealed secret draws the same set again.
  records = read(tiny_run / 'ledger.jsonl')
  secret = next(r.payload['secrets']['holdout'] for r in records if r.kind == 'secrets_revealed')
  (tmp_path / 'secret.json').write_text(json.dumps({'secret': secret}))
  scored = aevo(
    'evaluate',
    out,
    '--split=final',
    f'--secret_file={tmp_path / "secret.json"}',
    '--items=60',
    '--json',
  )
  assert scored.returncode == 0, scored.stderr
  reply, recorded = json.loads(scored.stdout), fold(records).final['scores']['starting0']
  assert {name: reply[name] for name in recorded} == recorded


@pytest.mark.parametrize(
  ('sent', 'status', 'words'),
  [
    (signal.SIGINT, 1, 'interrupted; the same command continues'),
    (signal.SIGTERM, 143, 'SIGTERM; saved'),
  ],
)
def test_train_continues_after_a_signal(tmp_path, sent, status, words):
  out = tmp_path / 'out'
  # A shell's background job ignores Ctrl-C and so do its children, unless they ask for it.
  program = (
    'import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from '
    'aevo_jax.cli import main; sys.exit(main())'
  )
  command = [
    sys.executable,
    '-c',
    program,
    'train',
    f'--out={out}',
    '--tokens=20480',
    '--steps=40',
    '--gin.train.batch_rows=4',
    '--checkpoint_every=2',
    '--gin.upkeep.keep_checkpoints=2',
  ]
  process = subprocess.Popen(
    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
  )
  deadline = time.monotonic() + 200
  while (
    not (out / 'checkpoints' / 'step_00000002').exists()
    and process.poll() is None
    and time.monotonic() < deadline
  ):
    time.sleep(0.05)
  process.send_signal(sent)
  said, _ = process.communicate(timeout=60)
  assert process.returncode == status and words in said and 'Traceback' not in said
  before = [json.loads(line)['step'] for line in (out / 'metrics.jsonl').read_text().splitlines()]
  assert len(before) < 40 and not (out / EXPORT).exists()

  result = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
  assert result.returncode == 0, result.stdout + result.stderr
  after = [json.loads(line)['step'] for line in (out / 'metrics.jsonl').read_text().splitlines()][
    len(before) :
  ]
  assert after[0] >= 2 and after == list(range(after[0], 40))
  assert sent == signal.SIGINT or after[0] == before[-1] + 1  # from the very step
  assert sorted(p.name for p in (out / 'checkpoints').iterdir()) == [
    'step_00000038',
    'step_00000040',
  ]
  assert (out / EXPORT).exists()


def test_reinforcement_with_an_adapter_on_scanned_layers_goes_on_and_exports(tmp_path):
  small = [
    '--gin_file=configs/algorithms/rloo.gin',
    '--gin.rollout.prompts=2',
    '--gin.rollout.group_size=4',
    '--gin.rl.microbatches=2',
    '--gin.rollout.max_new_tokens=16',
    "--gin_bindings=adaptation.method='lora'",
    '--gin.model.scan=True',
    '--checkpoint_every=1',
  ]
  result = aevo('train', f'--out={tmp_path / "rl"}', '--rl_steps=2', *small)
  assert result.returncode == 0 and 'step     2 of 2  reward' in result.stdout, (
    result.stdout + result.stderr
  )
  fields = json.loads((tmp_path / 'rl/export/adapter/adapter_config.json').read_text())
  assert fields['base_model_name_or_path'] == str(layout.root_file('substrate') / 'base')
  unstacked = load_file(tmp_path / 'rl/export/adapter/adapter_model.safetensors')
  assert all('.layers.' in name for name in unstacked)  # as PEFT names them, not by segments
  latest = aevo('export_hf', tmp_path / 'rl/checkpoints', f'--out={tmp_path / "latest"}')
  assert latest.returncode == 0, latest.stderr
  exported = tmp_path / 'rl' / EXPORT
  assert tensors(tmp_path / 'latest/model.safetensors') == tensors(exported)
  scored = aevo('evaluate', tmp_path / 'rl', '--items=6', '--json')
  assert scored.returncode == 0 and json.loads(scored.stdout)['overall']['total'] == 6, (
    scored.stderr
  )
  for more, said in (
    (
      ['--rl_steps=2', '--gin.rollout.max_new_tokens=20'],
      'recipe.rollout.max_new_tokens was 16 and is 20 now',
    ),
    (['--rl_steps=2', '--steps=3'], '--steps is read by nothing'),
    (['--gin.loss.label_smoothing=0.1'], 'nothing reads loss'),
    (["--gin_bindings=reward.verifier='strickt'"], 'no verifier'),
  ):
    changed = [one.partition('=')[0] for one in more]
    kept = [one for one in small if one.partition('=')[0] not in changed or 'bindings' in one]
    again = aevo('train', f'--out={tmp_path / "rl"}', *kept, *more)
    assert (
      again.returncode == 1
      and said in again.stdout + again.stderr
      and 'Traceback' not in again.stderr
    )
  moved_gate = aevo(
    'train', f'--out={tmp_path / "rl"}', '--rl_steps=2', '--gin.gates.logprob_gap=0.1', *small
  )
  assert moved_gate.returncode == 0, moved_gate.stderr


def test_two_methods_share_tokens_and_go_on_where_they_were(tmp_path):
  command = (
    'train',
    f'--out={tmp_path / "two"}',
    '--tokens=8192',
    "--gin.method.name='sft_then_dpo'",
    '--gin.method.learning_rate=5e-5',
    '--gin.rollout.prompts=4',
    '--gin.rollout.group_size=4',
    '--gin.rollout.max_new_tokens=16',
    '--checkpoint_every=1',
  )
  result = aevo(*command)
  assert (
    result.returncode == 0
    and 'step     8 of 13  loss' in result.stdout
    and 'step    13 of 13  reward' in result.stdout
  ), result.stdout + result.stderr

  def count(name):
    return len((tmp_path / 'two' / name).read_text().splitlines())

  assert (count('metrics.jsonl'), count('then/metrics.jsonl')) == (8, 5)
  before = (tmp_path / 'two' / EXPORT).read_bytes()
  shutil.rmtree(tmp_path / 'two' / 'export')
  shutil.rmtree(tmp_path / 'two' / 'then' / 'checkpoints' / 'step_00000005')
  again = aevo(*command)
  assert again.returncode == 0 and (tmp_path / 'two' / EXPORT).read_bytes() == before, again.stderr
  assert (count('metrics.jsonl'), count('then/metrics.jsonl')) == (8, 5)  # the fifth step once
  other = aevo(*command, '--gin.method.share=0.4')
  assert other.returncode == 1 and 'recipe.method.share was 0.5 and is 0.4 now' in other.stderr


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (
      ('--gin.vllm.retries=1',),
      "vllm.retries is bound, and nothing reads vllm while evaluation.engine = 'jax'",
    ),
    (('--tasks=a',), '--tasks is read by nothing without --harness'),
    (('--noapply_chat_template',), '--apply_chat_template is read by nothing without --harness'),
    (('--harness=lm_eval',), 'needs --tasks'),
    (
      ('--harness=lm_eval', '--tasks=a', '--split=dev'),
      '--split is read by nothing with --harness',
    ),
    (
      ('--harness=lm_eval', '--tasks=a', '--gin.dev_set.items=3'),
      'aevo evaluate --harness reads nothing of dev_set',
    ),
    (
      ('--harness=lm_eval', '--tasks=a', "--gin.evaluation.engine='jax'"),
      'leave evaluation.engine out',
    ),
    (('--harness=lm_eval', '--tasks=a', "--gin.vllm.carrier='reload'"), 'bind one of file'),
    (
      ("--gin.evaluation.arbiter_url='http://a'",),
      'evaluation.arbiter_url is bound, and aevo evaluate does not read it',
    ),
    (
      ("--gin.evaluation.engine='vllm'", "--gin.vllm.python='/nowhere/python'"),
      'there is no vLLM at /nowhere/python: run `make vllm`',
    ),
  ],
)
def test_an_evaluation_refuses_what_it_does_not_read(arguments, said):
  result = aevo('evaluate', layout.root_file('substrate') / 'base', *arguments)
  assert (
    result.returncode == 1
    and said in result.stdout + result.stderr
    and 'Traceback' not in result.stderr
  )


def test_a_server_that_does_not_start_leaves_its_log(tmp_path):
  python = tmp_path / 'python'
  python.write_text('#!/bin/sh\necho so it goes; exit 3\n')
  python.chmod(0o755)
  result = aevo(
    'evaluate',
    layout.root_file('substrate') / 'base',
    '--items=3',
    "--gin.evaluation.engine='vllm'",
    f"--gin.vllm.python='{python}'",
    '--gin.vllm.retries=0',
  )
  assert (
    result.returncode == 1
    and 'vLLM ended while it started, with status 3' in result.stderr
    and 'so it goes' in result.stderr
    and 'Traceback' not in result.stderr
  )
  log = pathlib.Path(result.stderr.rpartition('log is kept at ')[2].strip())
  assert 'so it goes' in log.read_text()
  shutil.rmtree(log.parent)


def test_a_student_is_distilled_and_its_teacher_must_stay_the_same(tmp_path):
  teacher = tmp_path / 'teacher'
  shutil.copytree(layout.root_file('substrate') / 'base', teacher)
  command = (
    'train',
    f'--out={tmp_path / "student"}',
    '--gin_file=configs/algorithms/distill.gin',
    f"--gin.distillation.teacher='{teacher}'",
    '--gin.rollout.prompts=4',
    '--gin.rollout.group_size=1',
    '--gin.rl.microbatches=1',
    '--gin.rollout.max_new_tokens=8',
    '--gin.optimizer.learning_rate=1e-3',
    '--rl_steps=2',
  )
  result = aevo(*command)
  assert result.returncode == 0 and 'step     2 of 2  loss' in result.stdout, (
    result.stdout + result.stderr
  )
  first, second = (
    json.loads(line)['kl_teacher']
    for line in (tmp_path / 'student' / 'metrics.jsonl').read_text().splitlines()
  )
  assert first == pytest.approx(0, abs=1e-5) and second >= -1e-6  # its own teacher, at first
  other = {name: value + 1e-3 for name, value in load_file(teacher / 'model.safetensors').items()}
  save_file(other, teacher / 'model.safetensors', {'format': 'pt'})
  again = aevo(*command)
  assert (
    again.returncode == 1
    and 'teacher.model.safetensors was' in again.stderr
    and 'Traceback' not in again.stderr
  )


def test_conversations_of_several_turns_are_trained_on(tmp_path):
  result = aevo(
    'train',
    f'--out={tmp_path / "tally"}',
    "--gin.method.name='rl'",
    "--gin.environment.name='tally'",
    '--gin.environment.turns=3',
    "--gin.advantage.kind='turn'",
    '--rl_steps=1',
    '--gin.rollout.prompts=2',
    '--gin.rl.microbatches=1',
    '--gin.rollout.max_new_tokens=4',
  )
  assert result.returncode == 0 and 'step     1 of 1  reward' in result.stdout, (
    result.stdout + result.stderr
  )
  samples = [
    json.loads(line)
    for line in (tmp_path / 'tally' / 'rollouts' / '000000.jsonl').read_text().splitlines()[1:]
  ]
  assert len(samples) == 16 and all(
    len(s['rewards']) == 3 and s['family'] == 'tally' for s in samples
  )


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (
      (
        "--gin.method.name='rl'",
        "--gin.environment.name='tally'",
        '--tasks=configs/tasks/example.jsonl',
      ),
      '--tasks is read by nothing',
    ),
    (('--gin.environment.turns=3',), 'environment.turns is bound, and nothing reads environment'),
    (("--gin.method.name='sft_then_rl'", '--rl_steps=3'), 'give --tokens and --steps'),
    (("--gin.method.name='sft_then_rl'", '--tokens=9000'), 'not one fits'),
    (
      ('--gin.method.share=0.3',),
      "method.share = 0.3, and nothing reads it while method.name = 'sft'",
    ),
    (
      ('--gin.policy_gradient.clip_high=0.3',),
      "nothing reads policy_gradient while method.name = 'sft'",
    ),
    (('--rl_steps=3',), '--rl_steps is read by nothing'),
    (('--gin.optimizer.groups=[("embedding", 1.0, 1.0)]',), 'match no pattern'),
    (('--tokens=10',), 'at most 0 steps fit'),
    (('--stepps=3',), 'stepps'),
    (('--gin.optimizer.learning_rat=1',), 'did you mean'),
    (('--gin_file=configs/algorithms/distill.gin',), 'needs distillation.teacher'),
    (("--gin.distillation.teacher='x'",), 'nothing reads distillation'),
    (
      ('--gin_file=configs/algorithms/distill.gin', "--gin.distillation.teacher='/nowhere'"),
      'no checkpoint is there',
    ),
    (('--base=/nowhere',), '/nowhere'),
  ],
)
def test_train_answers_mistakes(tmp_path, arguments, said):
  result = aevo('train', f'--out={tmp_path / "out"}', *arguments)
  assert result.returncode == 1 and said in result.stdout + result.stderr
  assert 'Traceback' not in result.stderr


@pytest.mark.parametrize(
  ('change', 'arguments', 'said'),
  [
    ({'prompt': 'a <|eos|> b'}, (), "tasks.jsonl:41: '<|eos|>' is a control token"),
    ({'solution': 'long ' * 9}, ('--gin.train.row_length=40',), 'tasks.jsonl:41: the task has'),
  ],
)
def test_train_names_tasks_that_do_not_fit_and_begins_nothing(tmp_path, change, arguments, said):
  tasks = [{'prompt': f'{i} + 1?', 'answer': str(i + 1), 'family': 'sums'} for i in range(40)] + [
    {'prompt': 'asked?', 'answer': '1', 'family': 'sums'} | change
  ]
  (tmp_path / 'tasks.jsonl').write_text(''.join(json.dumps(task) + '\n' for task in tasks))
  result = aevo(
    'train', f'--out={tmp_path / "out"}', f'--tasks={tmp_path / "tasks.jsonl"}', *arguments
  )
  assert result.returncode == 1 and said in result.stderr and 'Traceback' not in result.stderr
  assert not (tmp_path / 'out').exists()


def test_pretraining_refuses_what_it_does_not_read(tmp_path):
  result = aevo(
    'pretrain',
    '--gin_file=configs/recipes/pretrain_micro.gin',
    '--gin.rl.epochs=2',
    f'--out={tmp_path / "base"}',
  )
  assert (
    result.returncode == 1
    and 'rl.epochs is bound, and aevo pretrain reads nothing of rl' in result.stderr
    and 'Traceback' not in result.stderr
  )
  assert not (tmp_path / 'base').exists()


def test_train_names_the_path_on_a_full_disk(tmp_path):
  result = aevo_process('train', f'--out={tmp_path / "out"}', program=('-c', FULL_DISK))
  assert result.returncode == 1
  assert (
    f'{tmp_path / "out" / "train.json"}: the disk is full' in result.stderr
    and 'Traceback' not in result.stderr
  )


@pytest.mark.skipif(os.geteuid() != 0, reason='mounting a small tmpfs needs root')
def test_a_machine_that_fails_is_a_sentence_and_the_run_goes_on(tmp_path):
  """Full disk, read-only disk, limits on files and memory, by turns; the weights are those of a run
  that met none of it.
  """
  command = ('train', '--tokens=8192', '--steps=4', '--checkpoint_every=1')
  assert aevo(*command, f'--out={tmp_path / "whole"}').returncode == 0
  checkpoint = tmp_path / 'whole' / 'checkpoints' / 'step_00000001'
  size = sum(path.stat().st_size for path in checkpoint.rglob('*'))
  small = tmp_path / 'small'
  small.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', f'size={2 * size + size // 2}', 'tmpfs', small]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip('this container may not mount a tmpfs')
  try:
    full = aevo_process(*command, f'--out={small / "run"}')
    assert full.returncode == 1 and 'Traceback' not in full.stderr, full.stderr
    assert (
      'checkpoints: the disk is full; free space, then run the same command again' in full.stderr
    )
    assert len(list((small / 'run' / 'checkpoints').iterdir())) == 2
    for options, limit, said in (
      ('ro', 'ulimit -f unlimited', 'the file system is read-only; make it writable'),
      (f'rw,size={20 * size}', 'ulimit -v 900000', 'memory is limited to 0.9 GB (ulimit -v, -d)'),
      ('rw', f'ulimit -f {size // 4096}', 'the file has reached the size limit (ulimit -f)'),
    ):
      subprocess.run(['mount', '-o', f'remount,{options}', small], check=True)
      limited = ('sh', '-c', f'{limit}; exec "$@"', 'sh')
      fails = aevo_process(*command, f'--out={small / "run"}', prefix=limited)
      assert fails.returncode == 1 and said in fails.stderr, fails.stderr
      assert 'Traceback' not in fails.stderr and 'run the same command again' in fails.stderr
    again = aevo_process(*command, f'--out={small / "run"}')
    assert again.returncode == 0, again.stderr
    assert tensors(small / 'run' / EXPORT) == tensors(tmp_path / 'whole' / EXPORT)
    rows = (small / 'run' / 'metrics.jsonl').read_text().splitlines()
    steps = [json.loads(row)['step'] for row in rows]
    assert steps == [0, 1, 2, 3]
  finally:
    subprocess.run(['umount', '-l', small], check=True)


def test_a_directory_in_which_another_process_trains_is_refused(tmp_path):
  out = tmp_path / 'out'
  out.mkdir()
  with (out / '.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # as the other process does
    result = aevo('train', f'--out={out}', '--tokens=8192', '--steps=1')
    assert result.returncode == 1 and f'another process trains in {out};' in result.stderr
    assert [p.name for p in out.iterdir()] == ['.lock']


def test_train_leaves_other_peoples_files_alone(tmp_path):
  (tmp_path / 'thesis.tex').write_text('years of work')
  result = aevo('train', f'--out={tmp_path}')
  assert result.returncode == 1 and 'is not empty' in result.stderr
  assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']
