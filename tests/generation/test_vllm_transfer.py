"""Weights from GPU to GPU, without one: the sender as a process of a few lines, and the transport
without a sender.
"""

import pathlib
import sys
import time

import httpx2
import pytest

from aevo_jax.config.inference import Vllm
from aevo_jax.generation.vllm import transfer, transports
from aevo_jax.generation.vllm.client import Client, ReplyError, ServerDownError, WrongWeightsError
from aevo_jax.generation.vllm.server import Launch

# -- the process, as this side of it sees it -------------------------------------------------------


def sender(tmp_path, program, patience=transfer.PATIENCE, **settings):
  """A sender that is a few lines: `say` replies, `ask` reads a request."""
  path = tmp_path / 'sender.py'
  path.write_text(
    (
      'import json, os, sys, time\nsettings = json.loads(sys.argv[1])\nsay = lambda '
      '**reply: print(json.dumps(reply), flush=True)\nask = lambda: '
      'json.loads(sys.stdin.readline())\n'
    )
    + program
  )
  return transfer.Sender(
    Vllm(python=sys.executable, **{'carrier': 'nccl', 'request_s': 1.0} | settings),
    tmp_path / 'logs' / 'log',
    Launch(sender=path),
    patience=patience,
  )


def ended(pid, seconds=5.0):
  until = time.monotonic() + seconds
  while pathlib.Path(f'/proc/{pid}').exists() and time.monotonic() < until:
    time.sleep(0.05)
  return not pathlib.Path(f'/proc/{pid}').exists()


def test_a_sender_is_asked_and_answers(tmp_path):
  made = sender(
    tmp_path,
    (
      "say(ready='nccl')\nwhile True:\n  asked = ask()\n  print(asked, settings, "
      "file=sys.stderr)\n  say(sent=asked['sha256'])\n"
    ),
    tensor_parallel=4,
  )
  made.send('unix:/s', tmp_path / 'a', 'd1')
  made.send('unix:/s', tmp_path / 'a', 'd2')
  log = (tmp_path / 'logs' / 'log').read_text()
  assert (
    "'mark': 'aevo-half-d2'" in log
    and "'address': 'unix:/s'" in log
    and "'world': 5" in log
    and "'device': 4" in log
    and "'master': '127.0.0.1'" in log
  )
  made.stop()
  assert ended(made.pid)


@pytest.mark.parametrize(
  'settings, device',
  [({'carrier': 'ipc'}, 0), ({'url': 'unix:/s'}, 0), ({'tensor_parallel': 2}, 2)],
)
def test_which_gpu_it_has(tmp_path, settings, device):
  made = sender(tmp_path, "say(ready='')\nask()\nsay(error=str(settings['device']))\n", **settings)
  with pytest.raises(ServerDownError, match=f'failed: {device};'):
    made.send('unix:/s', tmp_path / 'a', 'd')
  made.stop()


@pytest.mark.parametrize(
  'program, error, said',
  [
    ('say(error="bind another carrier")', transfer.NoSenderError, 'bind another carrier'),
    ('sys.exit(3)', ServerDownError, 'ended with status 3'),
    ('time.sleep(60)', ServerDownError, 'did not answer in 1 s'),
  ],
)
def test_one_that_does_not_start_is_told_and_ended(tmp_path, program, error, said):
  pid = tmp_path / 'pid'
  program = f'print(os.getpid(), file=open({str(pid)!r}, "w"), flush=True)\n{program}'
  with pytest.raises(error, match=said):
    sender(tmp_path, program, patience=0.1, startup_s=1.0)
  assert ended(int(pid.read_text()))


@pytest.mark.parametrize(
  'program, error, said',
  [
    ("say(refused='another digest')", WrongWeightsError, 'another digest'),
    ("say(error='so it goes')", ServerDownError, 'so it goes'),
    ("say(sent='another')", ServerDownError, 'another'),
    ('os._exit(4)', ServerDownError, 'ended with status 4'),
    ('time.sleep(60)', ServerDownError, 'did not answer in 1 s'),
  ],
)
def test_one_that_fails_is_told(tmp_path, program, error, said):
  made = sender(tmp_path, f"say(ready='')\nask()\n{program}\n", patience=0.1)
  try:
    with pytest.raises(error, match=said):
      made.send('unix:/s', tmp_path / 'a', 'd')
  finally:
    made.stop()
  with pytest.raises((ServerDownError, ValueError)):
    made.send('unix:/s', tmp_path / 'a', 'd')


# -- the transport, without a sender ---------------------------------------------------------------


class Told:
  """A server that says what its weights are called, and senders to it. breaks: the next one ends in
  the middle of its weights.
  """

  def __init__(self, devices=1):
    self.version, self.devices, self.breaks, self.senders = 'default', devices, False, []

  def __call__(self, request):
    return httpx2.Response(
      200,
      json={
        '/weight_info': {'weight_version': self.version},
        '/get_world_size': {'world_size': self.devices},
      }[request.url.path],
    )

  def sender(told, settings, log, launch):
    class Sender:
      stopped = False

      def send(self, address, path, digest):
        told.version = transfer.HALF + digest
        if told.breaks:
          raise ServerDownError('so it goes')
        told.version = digest

      def stop(self):
        self.stopped = True

    told.senders.append(Sender())
    return told.senders[-1]


@pytest.fixture
def told():
  return Told()


def deliver(transport, told, digest):
  return transport.deliver(
    Client('http://nowhere', timeout=1.0, concurrency=1, transport=httpx2.MockTransport(told)),
    transports.Weights(pathlib.Path('a'), digest, {}, 3),
  )


def transport(told, **settings):
  return transports.TransferTransport(
    Vllm(carrier='nccl', **settings), pathlib.Path('log'), make_sender=told.sender
  )


def test_one_connection_is_kept(told):
  made = transport(told)
  made.ready()
  assert [deliver(made, told, d).weights for d in 'ab'] == ['a', 'b'] and len(told.senders) == 1
  made.close()
  made.close()
  assert told.senders[0].stopped


def test_a_server_that_was_given_others_since_gets_a_new_connection(told):
  made, other = transport(told), transport(told)
  deliver(made, told, 'a')
  deliver(other, told, 'b')
  deliver(made, told, 'c')
  assert len(told.senders) == 3 and told.senders[0].stopped


def test_half_of_other_weights_is_refused_until_the_server_is_started_again(told):
  told.breaks = True
  with pytest.raises(ServerDownError):
    deliver(transport(told), told, 'a')
  told.breaks = False
  for made in (transport(told), transport(told)):
    with pytest.raises(
      WrongWeightsError,
      match='holds a part of weights a, since their transfer broke off; start it again',
    ):
      deliver(made, told, 'a')
  assert len(told.senders) == 1
  told.version = 'default'
  deliver(transport(told), told, 'a')


def test_a_server_on_other_devices_than_was_said_is_refused(told):
  told.devices = 2
  with pytest.raises(
    ReplyError, match=r"vllm.tensor_parallel = 1 says: {'world_size': 2}; bind the same"
  ):
    deliver(transport(told), told, 'a')
  deliver(transport(told, tensor_parallel=2), told, 'a')
