"""The sender of weights in vLLM's environment, and both transfer engines at a real server.

There is no GPU here. vLLM's own code runs on a CPU, with what moves the bytes replaced
(`cpu_transport.py`), and that alone.
"""

import contextlib
import dataclasses
import gc
import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import threading
import time

import pytest
from vllm_served import BASE, EOS, SETTINGS, Served, other, write_model

from aevo_jax import layout
from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.config.inference import Vllm
from aevo_jax.generation.protocol import Sampling
from aevo_jax.generation.vllm import server as server_lib
from aevo_jax.generation.vllm import transfer
from aevo_jax.generation.vllm.client import Client, ServerDownError, WrongWeightsError
from aevo_jax.generation.vllm.engine import VllmEngine
from aevo_jax.generation.vllm.server import Launch
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.params import unbind

HERE = pathlib.Path(__file__).parent
PYTHON = layout.checkout_root() / 'third_party' / 'vllm' / '.venv' / 'bin' / 'python'
TRANSPORTS = ('nccl', 'ipc')
CONFIG = ModelConfig(
  vocab_size=16,
  hidden_size=16,
  pattern='*-',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=8,
  intermediate_size=16,
)


# -- the process itself, in vLLM's environment -----------------------------------------------------


@pytest.fixture
def moved(tmp_path_factory):
  """Senders and servers with bytes moved by cpu_transport."""
  return on_a_cpu(tmp_path_factory.mktemp('cpu_transport'))


def on_a_cpu(directory):
  """How processes are started whose bytes are files in a directory."""

  def environment(settings):
    return server_lib.environment(settings) | {
      'PYTHONPATH': f'{server_lib.SIDE}{os.pathsep}{HERE}',
      'AEVO_CPU_TRANSPORT': str(directory),
    }

  def command(*arguments):
    return [
      *server_lib.command(*arguments),
      '--worker-extension-cls',
      'cpu_transport.Worker',
    ]

  return Launch(command, environment, HERE / 'cpu_transport.py')


@pytest.mark.vllm
@pytest.mark.parametrize('name', TRANSPORTS)
def test_without_a_gpu_it_is_said_before_anything_is_started(name, tmp_path, monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
  structure, _ = unbind(create(CONFIG, 0))
  with pytest.raises(
    transfer.NoSenderError,
    match=f"'{name}' needs a GPU, and PyTorch .* sees none; bind vllm.carrier = 'file'",
  ):
    VllmEngine(
      Vllm(carrier=name),
      model=tmp_path / 'model',
      structure=structure,
      config=CONFIG,
      eos_ids=[EOS],
      log=tmp_path / 'log',
    )


@pytest.mark.vllm
def test_a_file_is_taken_whole_or_not_at_all(tmp_path):
  done = subprocess.run(
    [str(PYTHON), str(HERE / 'tensor_cases.py'), str(tmp_path / 'f')],
    env={'PYTHONPATH': str(server_lib.SIDE)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert len(done.stdout.splitlines()) == 10 and 'announced was ' + 'f' * 64 in done.stdout


@contextlib.contextmanager
def stub(answer):
  """A server that answers each POST with a status, or never: its address, and what it was asked."""
  asked, ends = [], threading.Event()

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      asked.append(
        (
          self.path,
          json.loads(self.rfile.read(int(self.headers.get('Content-Length') or 0)) or 'null'),
        )
      )
      status = answer(self.path)
      if status is None:
        ends.wait(60)
        return
      self.send_response(status)
      self.send_header('Content-Length', '2')
      self.end_headers()
      self.wfile.write(b'no')

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  try:
    yield f'http://127.0.0.1:{server.server_port}', asked
  finally:
    ends.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.vllm
def test_a_file_that_is_not_the_one_announced_is_sent_to_nobody(moved, tmp_path):
  path = tmp_path / 'half'
  path.write_bytes((BASE / 'model.safetensors').read_bytes()[:100_000])
  for digest, said in (
    ('f' * 64, 'announced was ffff'),
    (hashlib.sha256(path.read_bytes()).hexdigest(), 'no whole safetensors file'),
  ):
    made = transfer.Sender(Vllm(carrier='nccl'), tmp_path / 'log', moved)
    with stub(lambda path: 200) as (address, asked), pytest.raises(WrongWeightsError, match=said):
      made.send(address, path, digest)
    assert not asked and ended_by_itself(made)


def ended_by_itself(made):
  made._process.wait(10)
  made.stop()
  return True


@pytest.mark.vllm
@pytest.mark.parametrize(
  'name, fails, marked',
  [
    ('nccl', '/shutdown_weight_transfer_engine', False),
    ('nccl', '/init_weight_transfer_engine', False),
    ('ipc', '/start_weight_update', True),
    ('ipc', '/update_weights', True),
    ('ipc', '/finish_weight_update', True),
  ],
)
def test_a_server_that_refuses_is_told_at_once(moved, tmp_path, name, fails, marked):
  """A NCCL sender waits for the server's workers meanwhile, for minutes: that is not waited for."""
  made = transfer.Sender(Vllm(carrier=name), tmp_path / 'log', moved)
  path = BASE / 'model.safetensors'
  began = time.monotonic()
  with (
    stub(lambda path: 500 if path == fails else 200) as (address, asked),
    pytest.raises(ServerDownError, match=f'POST {fails}: status 500: no'),
  ):
    made.send(address, path, file_digest(path))
  assert time.monotonic() - began < 60 and ended_by_itself(made)
  assert (
    ('/update_weight_version', {'new_version': transfer.HALF + file_digest(path)}) in asked
  ) == marked
  assert [p for p, _ in asked][-1] == fails


@pytest.mark.vllm
def test_it_ends_with_its_owner_whatever_it_waits_for(moved, tmp_path):
  made = transfer.Sender(Vllm(carrier='nccl'), tmp_path / 'log', moved)
  with stub(lambda path: None if path.startswith('/init') else 200) as (address, asked):
    made._process.stdin.write(
      json.dumps(
        {
          'path': str(BASE / 'model.safetensors'),
          'sha256': file_digest(BASE / 'model.safetensors'),
          'address': address,
          'mark': 'm',
        }
      ).encode()
      + b'\n'
    )
    until = time.monotonic() + 60
    while len(asked) < 2 and time.monotonic() < until:
      time.sleep(0.1)
    assert made._process.poll() is None and asked[1][0] == '/init_weight_transfer_engine'
    info = asked[1][1]['init_info']
    assert info.pop('master_port') > 1024 and info.pop('packed_buffer_size_bytes') >= 2**17
    assert info == {
      'master_address': '127.0.0.1',
      'rank_offset': 1,
      'world_size': 2,
      'packed': True,
      'packed_num_buffers': 2,
    }
    made._process.stdin.close()  # as the owner's death does
    assert made._process.wait(10) == 0
  made.stop()


# -- vLLM's engines, at a real server --------------------------------------------------------------


SENT = [
  pytest.param(('qwen3', 'nccl'), id='qwen3-nccl', marks=pytest.mark.slow),
  pytest.param(('nemotron_h', 'nccl'), id='nemotron_h-nccl', marks=pytest.mark.slow),
  pytest.param(('nemotron_h', 'ipc'), id='nemotron_h-ipc', marks=pytest.mark.slow),
]
# httpcore2 2.16 leaves a socket open for each attempt at a server that has just been killed.
SOCKETS_STAY_OPEN = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


def at_a_server(test):
  parametrized = pytest.mark.parametrize('sent', SENT, indirect=True)(test)
  return pytest.mark.vllm(SOCKETS_STAY_OPEN(parametrized))


@pytest.fixture(scope='module')
def sent(request, tmp_path_factory):
  """A model whose engine carries its weights in one of the ways."""
  model, carrier = request.param
  directory = tmp_path_factory.mktemp(f'{model}_{carrier}')
  write_model(directory, model)
  made = Served(
    directory,
    dataclasses.replace(SETTINGS, carrier=carrier, request_s=120.0, retries=1),
    on_a_cpu(directory),
  )
  yield made
  made.engine.close()
  gc.collect()


def attached(sent):
  """Another engine, at the same server."""
  return sent.make_engine(
    dataclasses.replace(sent.engine.settings, url=sent.engine.server.address, retries=0)
  )


@at_a_server
def test_weights_arrive_again_and_again_over_one_connection(sent):
  engine = sent.engine
  for k in range(3):
    engine.update(other(sent.params, k), k)
    assert engine.gap <= 1e-4
    (found,) = engine.generate(sent.requests(1), Sampling(temperature=1.0, max_new_tokens=4))
    assert (found.version, found.digest) == (k, engine.digest)
  sender = engine.transport.sender_pid
  sent.load()
  assert (
    engine.digest == sent.digest
    and engine.transport.sender_pid == sender
    and engine.server.starts == 1
    and not engine.faults
  )
  requests = sent.requests(16)
  found = engine.generate(requests, Sampling(temperature=1.0, max_new_tokens=24))
  assert (
    max(
      abs(a - b)
      for c, row in zip(found, sent.logprobs(sent.params, requests, found), strict=True)
      for a, b in zip(c.logprobs, row, strict=True)
    )
    <= 1e-4
  )


@at_a_server
def test_a_server_that_runs_takes_weights_from_one_and_then_another(sent):
  sent.engine.update(other(sent.params, 4), 4)
  with attached(sent) as engine:
    engine.update(other(sent.params, 5), 5)
    assert engine.gap <= 1e-4
  sent.engine.update(other(sent.params, 6), 6)
  assert sent.engine.gap <= 1e-4 and sent.engine.server.starts == 1 and not sent.engine.faults


@at_a_server
def test_a_sender_killed_in_the_middle_leaves_a_server_that_nobody_believes(sent):
  sent.load()
  expected = sent.some(sent.engine)
  with attached(sent) as engine:
    engine.update(other(sent.params, 7), 7)
    (sent.directory / 'kill').touch()
    with pytest.raises(ServerDownError, match='sender of weights ended with status -9'):
      engine.update(other(sent.params, 8), 8)
    assert engine.digest == '' and not (sent.directory / 'kill').exists()
    for _ in range(2):
      with pytest.raises(WrongWeightsError, match='since their transfer broke off; start it again'):
        sent.some(engine)
  client = Client(sent.engine.server.address, timeout=10.0, concurrency=1)
  assert client.weight_version().startswith(transfer.HALF)
  client.close()
  sent.load()  # one of ours is started again
  assert (
    sent.engine.server.starts == 2
    and 'broke off' in sent.engine.faults[-1]
    and sent.some(sent.engine) == expected
  )
