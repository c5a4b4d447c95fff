"""The process between us and a server, on servers of a few lines: what ends, when, and what is
left.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from vllm_served import gone, processes, runs

from aevo_jax.generation.vllm import supervisor

# A server with an engine that is named as vLLM's are, by its arguments; both outlive SIGTERM.
SERVER = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
engine = subprocess.Popen(['bash', '-c', 'trap "" TERM; exec -a VLLM::EngineCore sleep 300'])
end = time.monotonic() + 300
while time.monotonic() < end:
  subprocess.run(['bash', '-c', 'exec -a VLLM::passing sleep 0.2'])  # what passes is no engine
"""
PATIENT = 20.0


@pytest.fixture
def started(tmp_path, monkeypatch):
  """(supervisor, directory that it is to remove), once the engine was there for long enough to
  count.
  """
  directory = tmp_path / 'weights'
  directory.mkdir()
  process = subprocess.Popen(
    [sys.executable, supervisor.__file__, f'--remove={directory}', sys.executable, '-c', SERVER],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    bufsize=0,
    start_new_session=True,
  )
  until = time.monotonic() + PATIENT
  while not engines(process):
    assert time.monotonic() < until
    time.sleep(0.1)
  time.sleep(2 * supervisor.SETTLED * supervisor.LOOK)
  assert process.poll() is None  # whatever passed meanwhile
  yield process, directory
  for pid in processes(process.pid):
    os.kill(pid, signal.SIGKILL)
  process.kill()
  process.wait()
  process.stdin.close()
  process.stdout.close()


def engines(process):
  return [
    pid for pid, command in processes(process.pid).items() if command.startswith('VLLM::EngineCore')
  ]


def test_an_engine_that_ends_ends_its_server(started):
  process, directory = started
  below, (engine,) = processes(process.pid), engines(process)
  os.kill(engine, signal.SIGKILL)
  assert (
    process.wait(PATIENT) == 1
    and f'process {engine} of vLLM has ended'.encode() in process.stdout.read()
  )
  gone(below)
  assert directory.exists()  # whoever wants the server may start another with it


@pytest.mark.parametrize('how', ['in order', 'dead'])
def test_all_of_it_ends_with_whoever_wanted_it(started, how):
  process, directory = started
  below = processes(process.pid)
  if how == 'in order':
    process.stdin.write(b'.')
  process.stdin.close()
  assert process.wait(PATIENT) == 0
  gone(below)
  assert directory.exists() == (how == 'in order')


def test_a_process_of_any_name_is_no_reason_to_end(started, tmp_path):
  process, _ = started
  program = pathlib.Path(os.fsdecode(bytes(tmp_path) + b'/caf\xe9'))
  program.symlink_to('/bin/sleep')
  other = subprocess.Popen([program, '30'])
  time.sleep(3 * supervisor.LOOK)
  assert process.poll() is None and runs(other.pid)
  other.kill()
  other.wait()
