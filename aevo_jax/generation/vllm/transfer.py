"""What sends weights from GPU to GPU: a small process in vLLM's environment, since PyTorch and NCCL
are there and not here (`generation/vllm_side/aevo_sender.py`).
"""

import json
import os
import pathlib
import select
import subprocess
import time

from aevo_jax.config.inference import Vllm
from aevo_jax.generation.vllm.client import ServerDownError, WrongWeightsError
from aevo_jax.generation.vllm.server import SIDE, environment, interpreter

SENDER = SIDE / 'aevo_sender.py'
PATIENCE = 5.0  # seconds between asking to end and killing
# what a server's weights are called while they are replaced, before the digest of the next
HALF = 'aevo-half-'


class NoSenderError(ServerDownError):
  """There is nothing to send weights from."""


class Sender:
  """The process. It ends with `stop`, with whoever started it, and after any fault.

  Args:
    log: what it prints is appended there.

  Raises:
    NoVllmError: see `server.interpreter`. NoSenderError: it has no GPU, and says what to bind.
  """

  def __init__(self, settings: Vllm, log: pathlib.Path):
    self._log, self._request_s = log, settings.request_s
    ours = (
      settings.carrier == 'nccl' and not settings.url
    )  # whose workers have the first GPUs; with CUDA IPC both have the same
    asked = {
      'backend': settings.carrier,
      'device': settings.tensor_parallel if ours else 0,
      'master': settings.transfer_address or '127.0.0.1',
      'world': 1 + settings.tensor_parallel,
      'timeout': settings.request_s,
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('ab') as output:
      self._process = subprocess.Popen(
        [str(interpreter(settings)), str(SENDER), json.dumps(asked)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=output,
        env=environment(settings),
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
    return self._process.pid

  def send(self, address: str, path: pathlib.Path, digest: str) -> None:
    """Has the server at this address take the weights of the file, and call them by the digest.

    Raises:
      WrongWeightsError: the file has another digest, or is not whole; the server was asked nothing.
        ServerDownError: it failed, and what the server holds now is unknown.
    """
    try:
      self._process.stdin.write(
        json.dumps(
          {
            'path': str(path.absolute()),
            'sha256': digest,
            'address': address,
            'mark': HALF + digest,
          }
        ).encode()
        + b'\n'
      )
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
    """Ends it."""
    self._process.stdin.close()
    try:
      self._process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process.stdout.close()

  def _reply(self, seconds: float) -> dict:
    until, line = time.monotonic() + seconds, b''
    while not line.endswith(b'\n'):
      if not select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
        raise ServerDownError(
          f'the sender of weights did not answer in {seconds:g} s; {self._log} may say why'
        )
      piece = os.read(self._process.stdout.fileno(), 2**16)
      if not piece:
        raise ServerDownError(
          f'the sender of weights ended with status {self._process.wait()}; {self._log} may say why'
        )
      line += piece
    return json.loads(line)
