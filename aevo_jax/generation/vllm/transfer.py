"""The sender of weights from GPU to GPU: a small process in vLLM's environment.

PyTorch and NCCL are there and not here; `generation/vllm_side/aevo_sender.py` is its program.
"""

import json
import os
import pathlib
import select
import subprocess
import time
from typing import Any

from aevo_jax.config.inference import Vllm
from aevo_jax.generation.vllm.client import ServerDownError, WrongWeightsError
from aevo_jax.generation.vllm.server import Launch, interpreter

PATIENCE = 5.0  # seconds between asking to end and killing
# What a server's weights are called while they are replaced, before the digest of the next.
HALF = 'aevo-half-'


class NoSenderError(ServerDownError):
  """There is nothing to send weights from."""


class Sender:
  """The process. It ends with `stop`, with this process, and after any fault."""

  def __init__(
    self,
    settings: Vllm,
    log: pathlib.Path,
    launch: Launch = Launch(),  # noqa: B008 - an immutable tuple
    *,
    patience: float = PATIENCE,
  ):
    """Starts the process and waits until it is ready.

    Args:
      settings: transport, GPUs and addresses.
      log: what the process prints is appended there.
      launch: program and environment.
      patience: seconds that it has to end before it is killed.

    Raises:
      NoVllmError: see `server.interpreter`.
      NoSenderError: it has no GPU, and says what to bind.
    """
    self._log = log
    self._request_s = settings.request_s
    self._patience = patience
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('ab') as output:
      self._process = subprocess.Popen(
        [str(interpreter(settings)), str(launch.sender), json.dumps(_arguments(settings))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=output,
        env=launch.environment(settings),
        bufsize=0,
      )
    try:
      reply = self._reply(settings.startup_s)
      if 'ready' not in reply:
        raise NoSenderError(str(reply.get('error', reply)))
    except BaseException:
      self.stop()
      raise

  @property
  def pid(self) -> int:
    """Process id."""
    return self._process.pid

  def send(self, address: str, path: pathlib.Path, digest: str) -> None:
    """Has a server take the weights of a file, and call them by their digest.

    Args:
      address: the server's, as `Client` takes it.
      path: of a safetensors file.
      digest: SHA-256 that the file must have.

    Raises:
      WrongWeightsError: the file has another digest, or is not whole; the server was asked nothing.
      ServerDownError: it failed, and what the server holds now is unknown.
    """
    request = {
      'path': str(path.absolute()),
      'sha256': digest,
      'address': address,
      'mark': HALF + digest,
    }
    try:
      self._stdin().write(json.dumps(request).encode() + b'\n')
    except OSError as error:
      raise ServerDownError(f'the sender has ended: {error}; {self._log} says why') from error
    reply = self._reply(self._request_s)
    if 'refused' in reply:
      raise WrongWeightsError(reply['refused'])
    if reply.get('sent') != digest:
      raise ServerDownError(
        f'the sender of weights failed: {reply.get("error", reply)}; {self._log} has all of it'
      )

  def stop(self) -> None:
    """Ends the process."""
    self._stdin().close()
    try:
      self._process.wait(self._patience)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._stdout().close()

  def _stdin(self) -> Any:
    return self._process.stdin

  def _stdout(self) -> Any:
    return self._process.stdout

  def _reply(self, seconds: float) -> dict[str, Any]:
    """Reads one line of JSON, or raises ServerDownError after `seconds`."""
    until = time.monotonic() + seconds
    line = b''
    while not line.endswith(b'\n'):
      left = max(0.0, until - time.monotonic())
      if not select.select([self._stdout()], [], [], left)[0]:
        raise ServerDownError(
          f'the sender of weights did not answer in {seconds:g} s; {self._log} may say why'
        )
      piece = os.read(self._stdout().fileno(), 2**16)
      if not piece:
        raise ServerDownError(
          f'the sender of weights ended with status {self._process.wait()}; {self._log} may say why'
        )
      line += piece
    return json.loads(line)


def _arguments(settings: Vllm) -> dict[str, Any]:
  device = 0
  # The workers of a server of ours have the first GPUs. With CUDA IPC both have the same.
  if settings.carrier == 'nccl' and not settings.url:
    device = settings.tensor_parallel
  return {
    'backend': settings.carrier,
    'device': device,
    'master': settings.transfer_address or '127.0.0.1',
    'world': 1 + settings.tensor_parallel,
    'timeout': settings.request_s,
  }
