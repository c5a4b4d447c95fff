"""A vLLM server of our own, which runs in an environment of its own.

It is started, watched, and ended with everything that it started.
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from typing import NamedTuple

import httpx2

from aevo_jax.config.inference import WHOLE_TRANSPORTS, Vllm
from aevo_jax.generation.vllm import supervisor
from aevo_jax.generation.vllm.client import MODEL, Client, ServerDownError
from aevo_jax.models.config import ModelConfig

# What vLLM's workers import of ours.
SIDE = pathlib.Path(__file__).resolve().parents[1] / 'vllm_side'
SENDER = SIDE / 'aevo_sender.py'
_CHECKOUT = pathlib.Path(__file__).resolve().parents[3]
# What a server takes over from our environment; no secret is among it.
_INHERITED = (
  'PATH',
  'LANG',
  'LC_ALL',
  'LD_LIBRARY_PATH',
  'HOME',
  'TMPDIR',
  'TZ',
  'CUDA_VISIBLE_DEVICES',
  'CUDA_HOME',
)


class NoVllmError(ServerDownError):
  """There is no vLLM to start."""


def interpreter(settings: Vllm) -> pathlib.Path:
  """Finds Python of vLLM's environment.

  Args:
    settings: `python` names it; '' is that of `make vllm` in this checkout.

  Returns:
    A path that exists.

  Raises:
    NoVllmError: it is not there, with what makes it.
  """
  path = _CHECKOUT / 'third_party' / 'vllm' / '.venv' / 'bin' / 'python'
  if settings.python:
    path = pathlib.Path(settings.python)
  if not path.exists():
    raise NoVllmError(
      f'there is no vLLM at {path}: run `make vllm` in a checkout, or bind vllm.python to '
      'the Python of an environment that has it, or vllm.url to a server that runs'
    )
  return path


def command(
  settings: Vllm, model: pathlib.Path, config: ModelConfig, listen: list[str]
) -> list[str]:
  """Writes the command line of a server.

  Args:
    settings: of the server.
    model: checkpoint directory.
    config: of the model.
    listen: arguments that say where it listens.

  Returns:
    Program and arguments.
  """
  whole = settings.carrier in WHOLE_TRANSPORTS
  arguments = {
    '--model': str(model),
    '--served-model-name': MODEL,
    '--dtype': settings.dtype,
    '--max-model-len': str(settings.max_model_len),
    '--max-num-seqs': str(settings.max_num_seqs),
    '--tensor-parallel-size': str(settings.tensor_parallel),
    '--gpu-memory-utilization': str(settings.memory),
    '--logprobs-mode': 'processed_logprobs',
    '--generation-config': 'vllm',
  }
  if settings.carrier in ('nccl', 'ipc'):  # vLLM's own
    arguments['--weight-transfer-config'] = json.dumps({'backend': settings.carrier})
  else:
    arguments['--worker-extension-cls'] = 'aevo_weights.Worker'
    arguments['--weight-transfer-config'] = json.dumps({'backend': 'aevo_file'})
  # A prompt is read in one step: vLLM 0.32 on a CPU fails where a request with a seed is read in
  # several ("CPU Generator does not use offset").
  arguments['--max-num-batched-tokens'] = str(max(settings.max_model_len, 8192))
  # Where all weights are brought, the directory need not have any, and those that nobody brought
  # are noise.
  if whole:
    arguments['--load-format'] = 'dummy'
  # vLLM 0.32 reloads no head that is tied; so it is not, and aevo_tensors gives it the embedding.
  if whole and config.tie_word_embeddings:
    arguments['--hf-overrides'] = json.dumps({'tie_word_embeddings': False})
  words = [str(interpreter(settings)), '-m', 'vllm.entrypoints.openai.api_server']
  for name, value in arguments.items():
    words += [name, value]
  return [*words, *_switches(settings, config), *listen]


def _switches(settings: Vllm, config: ModelConfig) -> list[str]:
  switches = ['--enable-scale-out', '--no-enable-chunked-prefill']
  if settings.eager:
    switches.append('--enforce-eager')
  # Prefix caching fails on a CPU with Mamba blocks.
  if 'M' in config.pattern:
    switches.append('--no-enable-prefix-caching')
  if settings.carrier == 'lora':
    switches += [
      '--enable-lora',
      '--max-loras',
      str(settings.lora_slots),
      '--max-cpu-loras',
      str(settings.lora_slots + 1),
      '--max-lora-rank',
      str(settings.lora_rank),
    ]
  return switches


def environment(settings: Vllm) -> dict[str, str]:
  """Writes the environment of the server, and of the sender of weights to it.

  Args:
    settings: of the server.

  Returns:
    Variables; of ours only those that it needs to start.
  """
  variables = {}
  for name, value in os.environ.items():
    if name in _INHERITED or (settings.carrier == 'nccl' and name.startswith('NCCL_')):
      variables[name] = value
  # Handles of memory come pickled, on a socket that this user alone can open.
  if settings.carrier == 'ipc':
    variables['VLLM_ALLOW_INSECURE_SERIALIZATION'] = '1'
  # Threads are not bound to cores, which other servers and trials have too.
  if settings.cpu_threads:
    variables['OMP_NUM_THREADS'] = str(settings.cpu_threads)
    variables['VLLM_CPU_OMP_THREADS_BIND'] = 'nobind'
  return variables | {
    'PYTHONPATH': str(SIDE),
    'VLLM_SERVER_DEV_MODE': '1',
    'VLLM_ALLOW_RUNTIME_LORA_UPDATING': '1',
    'HF_HUB_OFFLINE': '1',
    'VLLM_NO_USAGE_STATS': '1',
    'DO_NOT_TRACK': '1',
    'VLLM_CPU_KVCACHE_SPACE': str(settings.cpu_cache_gib),
    'VLLM_CPU_NUM_OF_RESERVED_CPU': '0',
  }


class Launch(NamedTuple):
  """How processes of vLLM's environment are started and spoken to; tests replace parts of it.

  Attributes:
    command: see the function of that name.
    environment: see the function of that name.
    sender: program of `transfer.Sender`.
    connect: makes what takes the place of the connection to an address; None is a real one.
  """

  command: Callable[[Vllm, pathlib.Path, ModelConfig, list[str]], list[str]] = command
  environment: Callable[[Vllm], dict[str, str]] = environment
  sender: pathlib.Path = SENDER
  connect: Callable[[str], httpx2.BaseTransport] | None = None


def _listens(address: str) -> bool:
  """Whether something takes connections at an address.

  It is asked before HTTP is, since httpcore2 2.16 leaves a socket open for each attempt that fails.
  """
  url = urllib.parse.urlsplit(address)
  family = socket.AF_INET
  target = (url.hostname, url.port)
  if url.scheme == 'unix':
    family = socket.AF_UNIX
    target = url.path
  with socket.socket(family) as attempt:
    try:
      attempt.connect(target)
    except OSError:
      return False
  return True


class Server:
  """A server of one checkpoint directory, on a socket that this user alone can open."""

  def __init__(
    self,
    settings: Vllm,
    model: pathlib.Path,
    config: ModelConfig,
    log: pathlib.Path,
    *,
    listen: tuple[list[str], str] | None = None,
    scratch: pathlib.Path | None = None,
    launch: Launch = Launch(),  # noqa: B008 - an immutable tuple
  ):
    """Makes a server that does not run yet.

    Args:
      settings: of the server.
      model: directory with config.json, tokenizer and weights by Hugging Face's layout.
      config: of the model.
      log: the server's output is appended there.
      listen: where else than on a socket: its arguments, and the address.
      scratch: a directory that goes with this process, should it be killed.
      launch: command and environment.
    """
    self._settings = settings
    self._model = model
    self._config = config
    self._log = log
    self._listen = listen
    self._caller_scratch = scratch
    self._launch = launch
    self._process: subprocess.Popen | None = None
    self._scratch: pathlib.Path | None = None
    self.address = listen[1] if listen else ''
    self.starts = 0

  def start(self) -> None:
    """Starts the server, unless it runs, and waits until it answers.

    Raises:
      NoVllmError: see `interpreter`.
      ServerDownError: it ended, or did not answer in settings.startup_s; with the end of its log.
    """
    if self.running:
      return
    self.stop()
    if self._listen is None:
      self._scratch = pathlib.Path(tempfile.mkdtemp(prefix='aevo_vllm_'))  # for its owner alone
      self.address = f'unix:{self._scratch / "s"}'
      listen = ['--uds', str(self._scratch / 's')]
    else:
      listen = self._listen[0]
    words = self._launch.command(self._settings, self._model, self._config, listen)
    removed = []
    for directory in (self._scratch, self._caller_scratch):
      if directory is not None:
        removed.append(f'--remove={directory}')
    self._log.parent.mkdir(parents=True, exist_ok=True)
    with self._log.open('ab') as log:
      log_start = log.tell()
      # A session of its own: Ctrl-C is for the caller, which ends the server in order.
      process = subprocess.Popen(
        [sys.executable, supervisor.__file__, *removed, *words],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=self._launch.environment(self._settings),
        bufsize=0,
        start_new_session=True,
      )
    self._process = process
    self.starts += 1
    self._wait(process, log_start)

  def _wait(self, process: subprocess.Popen, log_start: int) -> None:
    """Waits until the server answers, or raises ServerDownError."""
    startup_s = self._settings.startup_s
    client = Client(self.address, timeout=5.0, concurrency=1)
    try:
      until = time.monotonic() + startup_s
      while not (_listens(self.address) and client.healthy(timeout=5.0)):
        if process.poll() is not None:
          raise ServerDownError(
            f'vLLM ended while it started, with status {process.returncode}; '
            f'{self._tail(log_start)}'
          )
        if time.monotonic() > until:
          self.stop()
          raise ServerDownError(
            f'vLLM did not answer within vllm.startup_s = {startup_s:g} s; {self._tail(log_start)}'
          )
        time.sleep(0.1)
    finally:
      client.close()

  @property
  def running(self) -> bool:
    """Whether its process has not ended; it may hang all the same."""
    return self._process is not None and self._process.poll() is None

  @property
  def pid(self) -> int:
    """Process id of the supervisor, which must have been started."""
    if self._process is None:
      raise RuntimeError('the server does not run; call start() first')
    return self._process.pid

  def stop(self) -> None:
    """Ends the server and all that it started."""
    process = self._process
    if process is not None and process.stdin is not None:
      with contextlib.suppress(BrokenPipeError):  # it has ended
        process.stdin.write(b'.')
      process.stdin.close()
      try:
        process.wait(supervisor.PATIENCE + 5)
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
      self._process = None
    if self._scratch is not None:
      shutil.rmtree(self._scratch, ignore_errors=True)
      self._scratch = None

  def _tail(self, log_start: int) -> str:
    """Quotes the last errors of the log since `log_start`, or its last lines."""
    with self._log.open('rb') as file:
      file.seek(max(log_start, self._log.stat().st_size - 20_000))
      lines = file.read().decode(errors='replace').splitlines()
    errors = [line for line in lines if 'Error' in line]
    return f'{self._log} says: ' + ' | '.join((errors or lines)[-3:])
