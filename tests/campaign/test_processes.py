"""Servers repeat a request after they die, workers end at their deadline, and a child whose parent
is gone ends by itself.
"""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from aevo_jax import runtime
from aevo_jax.campaign.executors import processes
from aevo_jax.campaign.executors.processes import Nursery, Server, ServerError

REPOSITORY = pathlib.Path(runtime.__file__).resolve().parents[1]
ECHO = """
import json, pathlib, sys
flag = pathlib.Path(sys.argv[1])
for line in sys.stdin:
  request = json.loads(line)
  if request['op'] == 'die' and (not flag.exists() or request.get('always')):
    flag.touch()
    sys.exit(3)
  if request['op'] == 'half' and not flag.exists():
    flag.touch()
    sys.stdout.write('{"ok": tr'); sys.stdout.flush()
    sys.exit(3)
  print(json.dumps({'error': 'ValueError: no'} if request['op'] == 'bad' else {'ok': request['op']}), flush=True)
"""


@pytest.fixture
def server(tmp_path):
  made = Server([sys.executable, '-c', ECHO, str(tmp_path / 'flag')], tmp_path / 'log')
  yield made
  made.close()


def test_answers_come_in_order_with_their_tags(server):
  for tag in range(5):
    server.submit(tag, {'op': f'o{tag}'})
  answers = []
  while len(answers) < 5:
    if server.waiting:
      server.send_next()
    answer = server.poll()
    answers += [answer] if answer else []
  assert answers == [(tag, {'ok': f'o{tag}'}) for tag in range(5)]
  assert not server.waiting and not server.busy and server.poll() is None


@pytest.mark.parametrize('op', ['die', 'half'])
def test_a_server_that_dies_is_started_again_and_the_request_repeated(server, op):
  assert server.call({'op': op}) == {'ok': op}
  assert server.call({'op': 'after'}) == {'ok': 'after'}


def test_one_that_keeps_dying_is_an_error_after_a_bounded_number_of_starts(server):
  with pytest.raises(ServerError, match='ended 4 times, last with status 3'):
    server.call({'op': 'die', 'always': True})


def test_an_error_reply_is_an_error_and_the_server_lives_on(server):
  with pytest.raises(ServerError, match='bad: ValueError: no'):
    server.call({'op': 'bad'})
  assert server.call({'op': 'next'}) == {'ok': 'next'}


def test_close_ends_it_and_is_harmless_twice(server):
  server.call({'op': 'x'})
  pid = server._process.pid
  server.close()
  server.close()
  with pytest.raises(ProcessLookupError):
    os.kill(pid, 0)


@pytest.fixture
def nursery(tmp_path):
  made = Nursery(tmp_path / 'nursery.log')
  yield made
  made.close()


@pytest.fixture
def waiting_worker(nursery, tmp_path):
  """start(deadline_s) -> a worker that waits for its spec, a pipe that nobody writes to."""

  def start(deadline_s=300):
    directory = tmp_path / f'trial{len(list(tmp_path.iterdir()))}'
    directory.mkdir()
    os.mkfifo(directory / 'spec.json')
    return nursery.start('r0w0', directory, deadline_s)

  return start


def ended(worker) -> int:
  """Exit status, once there is one."""
  while worker.poll() is None:
    time.sleep(0.01)
  return worker.poll()


def test_a_worker_without_a_spec_ends_with_its_reason_in_its_log(nursery, tmp_path):
  (tmp_path / 'trial').mkdir()
  assert ended(nursery.start('r0w0', tmp_path / 'trial', 300)) == 1
  assert 'FileNotFoundError' in (tmp_path / 'trial' / 'log.txt').read_text()


def test_a_worker_is_a_process_of_its_own_that_holds_nothing_of_the_nursery(waiting_worker):
  first, second = waiting_worker(), waiting_worker()
  assert first.pid != second.pid
  for worker in (first, second):
    process = pathlib.Path(f'/proc/{worker.pid}')
    while not (process / 'cwd').readlink() == worker.directory:
      time.sleep(0.01)  # it is still on its way
    assert len(list((process / 'task').iterdir())) == 1 and os.getsid(worker.pid) == worker.pid
    files = {int(f.name): str(f.readlink()) for f in (process / 'fd').iterdir()}
    assert files == {
      0: '/dev/null',
      1: str(worker.directory / 'log.txt'),
      2: str(worker.directory / 'log.txt'),
    }
  second.kill()
  assert second.poll() == -9 and first.poll() is None


def test_a_worker_is_killed_at_its_deadline(waiting_worker):
  late, other = waiting_worker(0.2), waiting_worker()
  assert ended(late) == -9 and late.timed_out
  assert other.poll() is None and not other.timed_out


def test_workers_end_with_their_nursery_and_the_next_one_gets_another(nursery, waiting_worker):
  worker = waiting_worker()
  os.kill(nursery._process.pid, 9)
  assert ended(worker) == -9
  deadline = time.monotonic() + 10
  while pathlib.Path(f'/proc/{worker.pid}').exists() and time.monotonic() < deadline:
    time.sleep(0.01)
  assert not pathlib.Path(f'/proc/{worker.pid}').exists()
  assert waiting_worker().poll() is None


def test_a_nursery_that_cannot_start_is_an_error(nursery, monkeypatch, tmp_path):
  monkeypatch.setattr(sys, 'executable', '/bin/false')
  with pytest.raises(ServerError, match='ended twice'):
    nursery.start('r0w0', tmp_path, 300)


def test_children_get_no_secrets(monkeypatch):
  for name in (
    'OPENAI_API_KEY',
    'AEVO_ARBITER_HOME',
    'AWS_SECRET_ACCESS_KEY',
    'HTTPS_PROXY',
    'LD_PRELOAD',
  ):
    monkeypatch.setenv(name, 'secret')
  environment = processes._environment()
  assert 'secret' not in environment.values() and environment['PATH'] == os.environ['PATH']
  assert environment[runtime.PARENT] == str(os.getpid())


CHILD = """
import sys, time
if sys.argv[1] == 'late':
  time.sleep(1)
from aevo_jax.runtime import die_with_parent
die_with_parent()
print('alive', flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize('when', ['early', 'late'])
def test_no_child_outlives_its_parent_not_even_one_that_was_still_starting(tmp_path, when):
  """'late' reaches its prctl after the parent is gone, so that no signal can come any more."""
  parent = (
    'import os, subprocess, sys, time; p = subprocess.Popen([sys.executable, "-c", '
    'sys.argv[1], sys.argv[2]], stdout=open(sys.argv[3], "w"), start_new_session=True,'
    ' env=os.environ | {"AEVO_PARENT_PID": str(os.getpid())}); print(p.pid, flush=True); '
    'time.sleep(60)'
  )
  process = subprocess.Popen(
    [sys.executable, '-c', parent, CHILD, when, str(tmp_path / 'out')],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {'PYTHONPATH': str(REPOSITORY)},
  )
  child = int(process.stdout.readline())
  limit = time.monotonic() + 30
  while when == 'early' and 'alive' not in (tmp_path / 'out').read_text():
    assert time.monotonic() < limit
    time.sleep(0.02)
  process.kill()
  process.wait()
  process.stdout.close()
  while (
    pathlib.Path(f'/proc/{child}').exists()
    and pathlib.Path(f'/proc/{child}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
  ):
    assert time.monotonic() < limit, 'the child outlived its parent'
    time.sleep(0.02)
  assert ('alive' in (tmp_path / 'out').read_text()) == (when == 'early')
