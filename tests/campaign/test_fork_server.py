"""The fork server and its workers, as the local executor uses them; and a worker without it."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from aevo_jax.campaign.executors.forked_workers import ForkServer
from aevo_jax.campaign.executors.protocol import ExecutorError


@pytest.fixture
def fork_server(tmp_path):
  server = ForkServer(tmp_path / 'fork_server.log')
  yield server
  server.close()


@pytest.fixture
def waiting_worker(fork_server, tmp_path):
  """start() -> a worker that waits for its spec, a pipe that nobody writes to."""

  def start():
    directory = tmp_path / f'trial{len(list(tmp_path.iterdir()))}'
    directory.mkdir()
    os.mkfifo(directory / 'spec.json')
    return fork_server.start(directory)

  return start


def ended(worker) -> int:
  """Exit status, once there is one."""
  while worker.status() is None:
    time.sleep(0.01)
  return worker.status()


def test_a_worker_without_a_spec_ends_with_its_reason_in_its_log(fork_server, tmp_path):
  (tmp_path / 'trial').mkdir()
  assert ended(fork_server.start(tmp_path / 'trial')) == 1
  assert 'FileNotFoundError' in (tmp_path / 'trial' / 'log.txt').read_text()


def test_a_worker_has_an_entry_point_beside_the_fork_server(tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'aevo_jax.campaign.trial.worker', str(tmp_path)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1 and str(tmp_path / 'spec.json') in done.stderr


def test_a_worker_is_a_process_of_its_own_that_holds_nothing_of_the_fork_server(waiting_worker):
  first, second = waiting_worker(), waiting_worker()
  assert first.pid != second.pid
  for worker in (first, second):
    process = pathlib.Path(f'/proc/{worker.pid}')
    while (process / 'cwd').readlink() != worker.directory:
      time.sleep(0.01)  # it is still on its way
    assert len(list((process / 'task').iterdir())) == 1 and os.getsid(worker.pid) == worker.pid
    files = {int(f.name): str(f.readlink()) for f in (process / 'fd').iterdir()}
    assert files == {
      0: '/dev/null',
      1: str(worker.directory / 'log.txt'),
      2: str(worker.directory / 'log.txt'),
    }
  second.signal()
  assert ended(second) == -9 and first.status() is None


def test_workers_end_with_their_fork_server_and_the_next_one_gets_another(
  fork_server, waiting_worker
):
  worker = waiting_worker()
  os.kill(fork_server.pid, 9)
  assert ended(worker) == -9
  deadline = time.monotonic() + 10
  while pathlib.Path(f'/proc/{worker.pid}').exists() and time.monotonic() < deadline:
    time.sleep(0.01)
  assert not pathlib.Path(f'/proc/{worker.pid}').exists()
  assert waiting_worker().status() is None


def test_a_fork_server_that_cannot_start_is_an_error(tmp_path):
  with pytest.raises(ExecutorError, match='ended twice'):
    ForkServer(tmp_path / 'fork_server.log', python='/bin/false').start(tmp_path)
