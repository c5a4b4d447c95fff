"""A vLLM server of our own: started in its own environment, watched, and ended with everything that
it started.
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

from aevo_jax.config.inference import WHOLE_CARRIERS, Vllm
from aevo_jax.generation.vllm import supervisor
from aevo_jax.generation.vllm.client import MODEL, Client, ServerDownError
from aevo_jax.models.config import ModelConfig

SIDE = (
  pathlib.Path(__file__).resolve().parents[1] / 'vllm_side'
)  # what vLLM's workers import of ours
_CHECKOUT = pathlib.Path(__file__).resolve().parents[3]
_KEPT = (
  'PATH',
  'LANG',
  'LC_ALL',
  'LD_LIBRARY_PATH',
  'HOME',
  'TMPDIR',
  'TZ',
  'CUDA_VISIBLE_DEVICES',
  'CUDA_HOME',
)  # of our environment, and no secret


class NoVllmError(ServerDownError):
  """There is no vLLM to start."""


def interpreter(settings: Vllm) -> pathlib.Path:
  """Python of vLLM's environment.

  Raises:
    NoVllmError: it is not there, with what makes it.
  """
  path = (
    pathlib.Path(settings.python)
    if settings.python
    else _CHECKOUT / 'third_party' / 'vllm' / '.venv' / 'bin' / 'python'
  )
  if not path.exists():
    raise NoVllmError(
      f'there is no vLLM at {path}: run `make vllm` in a checkout, or bind vllm.python to '
      'the Python of an environment that has it, or vllm.url to a server that runs'
    )
  return path


def command(
  settings: Vllm, model: pathlib.Path, config: ModelConfig, listen: list[str]
) -> list[str]:
  """What starts a server of the checkpoint directory `model`."""
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
    arguments |= {
      '--worker-extension-cls': 'aevo_weights.Worker',
      '--weight-transfer-config': json.dumps({'backend': 'aevo_file'}),
    }
  # A prompt is read in one step: vLLM 0.32 on a CPU fails where a request with a seed is read in
  # several ("CPU Generator does not use offset").
  arguments['--max-num-batched-tokens'] = str(max(settings.max_model_len, 8192))
  if (
    settings.carrier in WHOLE_CARRIERS
    # whose weights are all brought: the directory need not have any, and those that nobody brought
    # are noise
  ):
    arguments['--load-format'] = 'dummy'
  if (
    config.tie_word_embeddings and settings.carrier in WHOLE_CARRIERS
    # vLLM 0.32 reloads no head that is tied; so it is not, and aevo_tensors gives it the embedding
  ):
    arguments['--hf-overrides'] = json.dumps({'tie_word_embeddings': False})
  switches = [
    '--enable-scale-out',
    '--no-enable-chunked-prefill',
    *(['--enforce-eager'] if settings.eager else []),
    *(['--no-enable-prefix-caching'] if 'M' in config.pattern else []),
  ]  # which on a CPU fails with Mamba blocks
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
  return [
    str(interpreter(settings)),
    '-m',
    'vllm.entrypoints.openai.api_server',
    *(x for pair in arguments.items() for x in pair),
    *switches,
    *listen,
  ]


def environment(settings: Vllm) -> dict[str, str]:
  """Of the server, and of what sends weights to it: nothing of ours but what it needs to start."""
  kept = {
    name: value
    for name, value in os.environ.items()
    if name in _KEPT or (settings.carrier == 'nccl' and name.startswith('NCCL_'))
  }
  if (
    settings.carrier == 'ipc'
  ):  # handles of memory come pickled, on a socket that this user alone can open
    kept['VLLM_ALLOW_INSECURE_SERIALIZATION'] = '1'
  if settings.cpu_threads:  # not bound to cores, which other servers and trials have too
    kept |= {'OMP_NUM_THREADS': str(settings.cpu_threads), 'VLLM_CPU_OMP_THREADS_BIND': 'nobind'}
  return kept | {
    'PYTHONPATH': str(SIDE),
    'VLLM_SERVER_DEV_MODE': '1',
    'VLLM_ALLOW_RUNTIME_LORA_UPDATING': '1',
    'HF_HUB_OFFLINE': '1',
    'VLLM_NO_USAGE_STATS': '1',
    'DO_NOT_TRACK': '1',
    'VLLM_CPU_KVCACHE_SPACE': str(settings.cpu_cache_gib),
    'VLLM_CPU_NUM_OF_RESERVED_CPU': '0',
  }


def _listens(address: str) -> bool:
  """Whether something takes connections there. Asked before HTTP is, since httpcore2 2.16 leaves a
  socket open for each attempt that fails.
  """
  url = urllib.parse.urlsplit(address)
  with socket.socket(socket.AF_UNIX if url.scheme == 'unix' else socket.AF_INET) as attempt:
    try:
      attempt.connect(url.path if url.scheme == 'unix' else (url.hostname, url.port))
    except OSError:
      return False
  return True


class Server:
  """A server of one checkpoint directory, on a socket that this user alone can open.

  Args:
    model: directory with config.json, tokenizer and weights by Hugging Face's layout. log: its
      output is appended there. listen: other than on a socket: its arguments, and the address.
    scratch: a directory that goes with this process, should it be killed.
  """

  def __init__(
    self,
    settings: Vllm,
    model: pathlib.Path,
    config: ModelConfig,
    log: pathlib.Path,
    *,
    listen: tuple[list[str], str] | None = None,
    scratch: pathlib.Path | None = None,
  ):
    self._settings, self._model, self._config, self._log, self._listen, self._left = (
      settings,
      model,
      config,
      log,
      listen,
      scratch,
    )
    self._process: subprocess.Popen | None = None
    self._scratch: pathlib.Path | None = None
    self.address = listen[1] if listen else ''
    self.starts = 0

  def start(self) -> None:
    """Starts it, unless it runs, and waits until it answers.

    Raises:
      NoVllmError: see `interpreter`. ServerDownError: it ended, or did not answer in
        settings.startup_s; with the end of its log.
    """
    if self._process is not None and self._process.poll() is None:
      return
    self.stop()
    listen = self._listen and self._listen[0]
    if listen is None:
      self._scratch = pathlib.Path(tempfile.mkdtemp(prefix='aevo_vllm_'))  # for its owner alone
      self.address = f'unix:{self._scratch / "s"}'
      listen = ['--uds', str(self._scratch / 's')]
    wanted = command(self._settings, self._model, self._config, listen)
    self._log.parent.mkdir(parents=True, exist_ok=True)
    with self._log.open('ab') as log:
      began = log.tell()
      removed = [
        f'--remove={directory}'
        for directory in (self._scratch, self._left)
        if directory is not None
      ]
      self._process = subprocess.Popen(
        [sys.executable, supervisor.__file__, *removed, *wanted],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment(self._settings),
        bufsize=0,
        start_new_session=True,
      )  # Ctrl-C is for whoever wants the server, and ends it in order
    self.starts += 1
    client = Client(self.address, timeout=5.0, concurrency=1)
    try:
      until = time.monotonic() + self._settings.startup_s
      while not (_listens(self.address) and client.healthy(timeout=5.0)):
        if self._process.poll() is not None:
          raise ServerDownError(
            f'vLLM ended while it started, with status {self._process.returncode}; '
            f'{self._tail(began)}'
          )
        if time.monotonic() > until:
          self.stop()
          raise ServerDownError(
            f'vLLM did not answer within vllm.startup_s = {self._settings.startup_s:g} s; '
            f'{self._tail(began)}'
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
    """Of the supervisor."""
    return self._process.pid

  def stop(self) -> None:
    """Ends it and all that it started."""
    if self._process is not None:
      with contextlib.suppress(BrokenPipeError):  # it has ended
        self._process.stdin.write(b'.')
      self._process.stdin.close()
      try:
        self._process.wait(supervisor.PATIENCE + 5)
      except subprocess.TimeoutExpired:
        self._process.kill()
        self._process.wait()
      self._process = None
    if self._scratch is not None:
      shutil.rmtree(self._scratch, ignore_errors=True)
      self._scratch = None

  def _tail(self, began: int) -> str:
    with self._log.open('rb') as file:
      file.seek(max(began, self._log.stat().st_size - 20_000))
      lines = file.read().decode(errors='replace').splitlines()
    errors = [line for line in lines if 'Error' in line][-3:]
    return f'{self._log} says: ' + ' | '.join(errors or lines[-3:])
