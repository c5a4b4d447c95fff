"""Directories that a command is asked to make or to go on with, and that it must leave alone."""

import fcntl
import os
import pathlib
import subprocess

import pytest
from aevo_command import aevo

from aevo_jax import layout
from aevo_jax.checkpoint import run_directory

BASE = layout.root_file('substrate') / 'base'
PRETRAIN = ('pretrain', '--gin_file=configs/recipes/pretrain_micro.gin', '--out=OUT')


def file(out: pathlib.Path) -> None:
  out.write_text('years of work')


def below_a_file(out: pathlib.Path) -> None:
  out.parent.write_text('years of work')


def symbolic_loop(out: pathlib.Path) -> None:
  out.symlink_to(out)


def loop_on_the_way(out: pathlib.Path) -> None:
  out.parent.symlink_to(out.parent)


def holding(*names: str):
  """A folder with files of these names."""

  def make(out: pathlib.Path) -> None:
    out.mkdir(parents=True)
    for name in names:
      (out / name).write_text('years of work')

  return make


# Of every command that makes a directory. RUN and TRIAL are never reached.
COMMANDS = {
  'train': ('train', '--out=OUT'),
  'pretrain': PRETRAIN,
  'campaign': ('campaign', '--run=OUT'),
  'substrate build': ('substrate', 'build', f'--from_hf={BASE}', '--out=OUT'),
  'import_hf': ('import_hf', BASE, '--out=OUT'),
  'export_hf': ('export_hf', BASE, '--out=OUT'),
  'export': ('export', BASE, '--out=OUT'),
  'trial': ('trial', BASE, 'r0w0', '--rerun', '--out=OUT'),
}
STATES = {
  'a file': ('out', file, ('it is a file, and a directory is needed', 'it exists; choose another')),
  'below a file': ('file/out', below_a_file, ('is a file, so nothing can lie below it',)),
  'a loop': ('out', symbolic_loop, ('is a symbolic link that leads nowhere',)),
  'below a loop': ('loop/out', loop_on_the_way, ('is a file, so nothing can lie below it',)),
  'a name too long': ('x' * 300, lambda out: None, ('the name has more than 255 bytes',)),
}


def run_on(root: pathlib.Path, out: pathlib.Path, command: tuple) -> tuple[int, str]:
  """Runs a command on OUT and returns its status and words; all below the root stays as it is."""
  before = tree(root)
  result = aevo(*(str(part).replace('OUT', str(out)) for part in command))
  assert 'Traceback' not in result.stderr
  assert tree(root) == before
  return result.returncode, result.stderr


def tree(root: pathlib.Path) -> dict[str, str]:
  found = {}
  for path in sorted(root.rglob('*')):
    found[str(path)] = os.readlink(path) if path.is_symlink() else 'folder'
    if path.is_file():
      found[str(path)] = path.read_text()
  return found


@pytest.mark.parametrize('command', COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(('name', 'make', 'said'), STATES.values(), ids=STATES)
def test_what_cannot_be_made_is_said_before_anything(tmp_path, command, name, make, said):
  out = tmp_path / name
  make(out)
  status, words = run_on(tmp_path, out, command)
  assert status == 1 and any(text in words for text in said), words
  assert words.startswith(f'aevo {command[0]}: --') and len(words.splitlines()) == 2


FOREIGN = {
  'a thesis': (holding('thesis.tex'), 'not a run of `aevo COMMAND` (it has no RECORD)'),
  'a hidden file': (holding('.bashrc'), 'not a run of `aevo COMMAND` (it has no RECORD)'),
  'a base': (holding('config.json', 'model.safetensors'), '(it holds a base or a checkpoint;'),
  'a campaign': (holding('ledger.jsonl'), '(it holds a run of `aevo campaign`;'),
  'a substrate': (holding('manifest.json'), '(it holds a substrate;'),
}


@pytest.mark.parametrize(('make', 'said'), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize(
  ('command', 'record'),
  [(COMMANDS['train'], run_directory.TRAIN), (PRETRAIN, run_directory.PRETRAIN)],
)
def test_a_trainer_leaves_other_peoples_files_alone(tmp_path, command, record, make, said):
  out = tmp_path / 'out'
  make(out)
  status, words = run_on(tmp_path, out, command)
  assert status == 1 and 'is not empty and' in words, words
  assert said.replace('COMMAND', command[0]).replace('RECORD', record) in words


@pytest.mark.parametrize(
  ('command', 'record', 'said'),
  [
    (PRETRAIN, run_directory.TRAIN, '(it holds a run of `aevo train`;'),
    (COMMANDS['train'], run_directory.PRETRAIN, '(it holds a run of `aevo pretrain`;'),
  ],
)
def test_a_trainer_leaves_the_other_trainers_runs_alone(tmp_path, command, record, said):
  out = tmp_path / 'out'
  holding(record)(out)
  status, words = run_on(tmp_path, out, command)
  assert status == 1 and said in words


def test_pretraining_goes_on_with_its_own_run_alone(tmp_path):
  """With other settings, or while another process is there, it says so."""
  out = tmp_path / 'out'
  holding()(out)
  with (out / run_directory.LOCK).open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    status, words = run_on(tmp_path, out, PRETRAIN)
  assert status == 1 and f'another process trains in {out};' in words
  (out / run_directory.PRETRAIN).write_text('{"pretrain": {"steps": 7}}')
  status, words = run_on(tmp_path, out, PRETRAIN)
  assert status == 1 and 'holds another run: ' in words and 'pretrain.steps was 7 and is ' in words


@pytest.mark.skipif(os.geteuid() != 0, reason='mounting a file system needs root')
@pytest.mark.parametrize('command', COMMANDS.values(), ids=COMMANDS)
def test_a_read_only_file_system_is_said(read_only, command):
  status, words = run_on(read_only, read_only / 'deep' / 'out', command)
  assert status == 1 and 'the file system is read-only; make it writable' in words


@pytest.fixture(scope='module')
def read_only(tmp_path_factory):
  root = tmp_path_factory.mktemp('mounted') / 'read_only'
  root.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'ro,size=1m', 'tmpfs', root]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip('this container may not mount a tmpfs')
  yield root
  subprocess.run(['umount', '-l', root], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
@pytest.mark.parametrize('command', COMMANDS.values(), ids=COMMANDS)
def test_a_folder_without_permission_is_said(tmp_path, command):
  tmp_path.chmod(0o555)
  try:
    status, words = run_on(tmp_path, tmp_path / 'out', command)
  finally:
    tmp_path.chmod(0o755)
  assert status == 1 and 'no permission; choose a directory that is yours' in words
