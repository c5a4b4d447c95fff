"""The contract of every executor. A new one is a row in `EXECUTORS`."""

import dataclasses
import os
import pathlib
import signal
import time

import pytest

from aevo_jax import runtime
from aevo_jax.campaign.executors.forked_workers import ForkServer
from aevo_jax.campaign.executors.local import LocalExecutor
from aevo_jax.campaign.executors.protocol import Allowance, Ended, Job, Lost, Queued, Running

# name -> make(slots, directory for logs, clock, fork server or None for one of its own)
EXECUTORS = {
  'local': lambda slots, logs, clock, fork_server: LocalExecutor(
    slots, logs / 'fork_server.log', clock, fork_server
  ),
}
PATIENCE_S = 60
REPOSITORY = pathlib.Path(runtime.__file__).resolve().parents[1]
# Python runs it at its start: a worker whose directory wants it starts a process there.
STARTS_A_PROCESS = """
import os, subprocess, sys

def hook(event, arguments):
  if event == 'os.chdir' and os.path.exists(os.path.join(arguments[0], 'starts_a_process')):
    subprocess.Popen(['sleep', '60'], cwd=arguments[0])

sys.addaudithook(hook)
"""


class ManualClock:
  """Seconds that pass only when a test says so."""

  def __init__(self):
    self.now = 1000.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return ManualClock()


@pytest.fixture(scope='module')
def fork_server(tmp_path_factory):
  """One for all tests: it imports what workers need for seconds."""
  server = ForkServer(tmp_path_factory.mktemp('fork_server') / 'log.txt')
  yield server
  server.close()


@pytest.fixture(params=EXECUTORS)
def make(request, tmp_path, clock, fork_server):
  """make(slots) -> an executor; `alone`: with a fork server of its own."""
  made = []

  def build(slots=4, alone=False):
    shared = None if alone else fork_server
    executor = EXECUTORS[request.param](slots, tmp_path, clock, shared)
    if alone:
      made.append(executor)
    return executor

  yield build
  for executor in made:
    executor.close()
  for directory in (tmp_path / 'trials').glob('*'):
    for pid in processes_in(directory):
      os.kill(pid, signal.SIGKILL)


@pytest.fixture
def job(tmp_path):
  """job(name, spec, deadline_s) -> a job; 'pipe' is a spec that nobody writes, so that it runs on;
  without one its worker ends with status 1.
  """

  def build(name, spec='pipe', deadline_s=300.0):
    directory = tmp_path / 'trials' / name
    directory.mkdir(parents=True)
    if spec == 'pipe':
      os.mkfifo(directory / 'spec.json')
    return Job(directory, deadline_s)

  return build


def wait_for(condition):
  limit = time.monotonic() + PATIENCE_S
  while not (value := condition()):
    assert time.monotonic() < limit
    time.sleep(0.01)
  return value


def end_of(executor, handle) -> Ended:
  wait_for(lambda: isinstance(executor.poll(handle), Ended))
  return executor.poll(handle)


def processes_in(directory: pathlib.Path) -> list[int]:
  """Live processes that work in a directory."""
  found = []
  for entry in pathlib.Path('/proc').iterdir():
    try:
      if entry.name.isdigit() and (entry / 'cwd').readlink() == directory:
        found.append(int(entry.name))
    except OSError:
      continue  # it ended meanwhile
  return found


@pytest.mark.parametrize(
  ('allowance', 'exceeded'),
  [
    (Allowance(disk=10**6), 'disk'),
    (Allowance(memory=10**8), 'memory'),
    (Allowance(disk=10**9, memory=10**11), ''),
  ],
)
def test_a_job_that_takes_more_than_its_allowance_is_ended(make, job, clock, allowance, exceeded):
  """A worker of a fork server holds more than 100 MB; the file is there from its start."""
  executor, running = make(), job('a')
  (running.directory / 'hoard').write_bytes(os.urandom(2 * 10**6))
  handle = executor.submit('key', dataclasses.replace(running, allowance=allowance))
  wait_for(lambda: processes_in(running.directory))
  clock.now += 1
  if exceeded:
    assert end_of(executor, handle) == Ended(-9, exceeded=exceeded)
  else:
    assert isinstance(executor.poll(handle), Running)
    executor.cancel(handle)
    assert executor.poll(handle) == Ended(-9) and executor.poll(handle).peak_memory > 10**8


def test_the_same_key_twice_is_the_same_job(make, job):
  executor, running = make(), job('a')
  handle = executor.submit('key', running)
  wait_for(lambda: processes_in(running.directory))
  assert executor.submit('key', running) == handle
  assert len(processes_in(running.directory)) == 1
  executor.cancel(handle)
  ended = executor.poll(handle)
  assert executor.submit('key', running) == handle and executor.poll(handle) == ended


def test_a_job_is_found_by_its_key_and_no_other(make, job):
  executor = make()
  assert executor.find('key') is None
  handle = executor.submit('key', job('a'))
  assert executor.find('key') == handle and executor.find('other') is None
  executor.cancel(handle)
  assert executor.find('key') == handle
  assert isinstance(executor.poll('of another executor'), Lost)


def test_a_job_that_ends_says_how(make, job):
  executor, fails = make(), job('a', spec=None)
  assert end_of(executor, executor.submit('key', fails)) == Ended(1)
  assert 'FileNotFoundError' in (fails.directory / 'log.txt').read_text()


def test_a_job_that_is_killed_says_so(make, job):
  executor, running = make(), job('a')
  handle = executor.submit('key', running)
  (pid,) = wait_for(lambda: processes_in(running.directory))
  assert isinstance(executor.poll(handle), Running)
  os.kill(pid, 9)
  assert end_of(executor, handle) == Ended(-9)


def test_a_job_past_its_deadline_is_ended_and_the_others_are_not(make, job, clock):
  executor = make()
  late = executor.submit('late', job('a', deadline_s=5.0))
  other = executor.submit('other', job('b'))
  clock.now += 4.9
  assert isinstance(executor.poll(late), Running)
  clock.now += 0.2
  assert end_of(executor, late) == Ended(-9, timed_out=True)
  assert isinstance(executor.poll(other), Running)


def test_slots_are_kept_and_a_deadline_counts_from_the_start(make, job, clock):
  executor = make(slots=1)
  first = executor.submit('first', job('a'))
  waiting = job('b', deadline_s=5.0)
  second = executor.submit('second', waiting)
  clock.now += 100
  assert executor.poll(first) == Running(1000.0)
  assert executor.poll(second) == Queued() and not processes_in(waiting.directory)
  executor.cancel(first)
  assert executor.poll(second) == Running(1100.0)
  clock.now += 4.9
  assert isinstance(executor.poll(second), Running)
  clock.now += 0.2
  assert end_of(executor, second) == Ended(-9, timed_out=True)


def test_cancel_ends_every_process_of_the_group(make, job, tmp_path, monkeypatch):
  (tmp_path / 'sitecustomize.py').write_text(STARTS_A_PROCESS)
  monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(tmp_path), str(REPOSITORY)]))
  executor, running = make(alone=True), job('a')
  (running.directory / 'starts_a_process').touch()
  handle = executor.submit('key', running)
  wait_for(lambda: len(processes_in(running.directory)) == 2)
  executor.cancel(handle)
  assert executor.poll(handle) == Ended(-9)
  wait_for(lambda: not processes_in(running.directory))


def test_a_queued_job_can_be_cancelled_and_cancelling_twice_is_fine(make, job):
  executor = make(slots=1)
  first = executor.submit('first', job('a'))
  queued = job('b')
  second = executor.submit('second', queued)
  for _ in range(2):
    executor.cancel(second)
  executor.cancel(first)
  assert isinstance(executor.poll(second), Ended) and not processes_in(queued.directory)


def test_no_job_outlives_the_close_of_a_local_one_and_closing_twice_is_fine(make, job):
  executor, running = make(alone=True), job('a')
  executor.submit('key', running)
  wait_for(lambda: processes_in(running.directory))
  executor.close()
  executor.close()
  wait_for(lambda: not processes_in(running.directory))
  assert not processes_in(running.directory)
