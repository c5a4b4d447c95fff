"""Transports: the ways by which weights reach a server, each with the same interface.

`vllm.carrier` names one of `TRANSPORTS`.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.config.inference import Vllm
from aevo_jax.generation.vllm.client import (
  MODEL,
  Client,
  ReplyError,
  ServerDownError,
  Source,
  WrongWeightsError,
)
from aevo_jax.generation.vllm.server import Launch
from aevo_jax.generation.vllm.transfer import HALF, Sender
from aevo_jax.models.params import Params

BROKEN_OFF = 'aevo-broken-off'  # what a server's weights are called while a file is loaded


class Weights(NamedTuple):
  """Weights to bring to a server.

  Attributes:
    path: of the safetensors file (of an adapter: in its directory).
    digest: its SHA-256, from a trusted record and not from the file.
    params: the same weights for JAX, adapters included.
    version: the caller's number for them.
  """

  path: pathlib.Path
  digest: str
  params: Params
  version: int = 0


@runtime_checkable
class Transport(Protocol):
  """A way for weights into one server, from its start to its end."""

  def ready(self) -> None:
    """Prepares, before a server is started.

    Raises:
      InferenceError: it can bring nothing on this machine.
    """

  def deliver(self, client: Client, weights: Weights) -> Source:
    """Has the server load weights.

    Args:
      client: of the server.
      weights: to load.

    Returns:
      Whose completions are to be requested from then on.

    Raises:
      InferenceError: it did not load them. What it holds now is unknown.
    """
    ...

  def close(self) -> None:
    """Ends every process that it started."""


class _Requests:
  """A transport that has only to ask the server, and starts no process."""

  def __init__(
    self,
    settings: Vllm,
    log: pathlib.Path,
    launch: Launch = Launch(),  # noqa: B008 - an immutable tuple
  ):
    """Takes what every transport takes, and reads nothing of it."""
    del settings, log, launch

  def ready(self) -> None:
    """Does nothing."""

  def close(self) -> None:
    """Does nothing."""


class FileTransport(_Requests):
  """By vLLM's weight-transfer interface, from a file that its workers read and hash.

  `generation/vllm_side/aevo_weights.py` is what they run.
  """

  _initialized = False

  def deliver(self, client: Client, weights: Weights) -> Source:
    """See `Transport.deliver`."""
    if not self._initialized:
      client.post('/init_weight_transfer_engine', {'init_info': {}})
      self._initialized = True
    try:
      # A server that fails here closes the connection, and at that moment the next request would
      # be on it.
      client.post('/start_weight_update', headers={'Connection': 'close'})
    except ServerDownError:
      # Perhaps an update that broke off, which vLLM still waits for; of a file all was loaded or
      # nothing.
      client.post('/finish_weight_update', {'weight_version': BROKEN_OFF})
      client.post('/start_weight_update')
    client.post('/update_weight_version', {'new_version': BROKEN_OFF})  # until it has all of them
    update = {'path': str(weights.path.absolute()), 'sha256': weights.digest}
    client.post('/update_weights', {'update_info': update})
    client.post('/finish_weight_update', {'weight_version': weights.digest})
    # The workers may have loaded another client's file: the name is what was announced last, by
    # anybody.
    loaded = client.post('/collective_rpc', {'method': 'aevo_loaded'})
    if not isinstance(loaded, dict) or set(loaded.get('results') or ['']) != {weights.digest}:
      raise WrongWeightsError(
        f'the workers say that they loaded {loaded}, announced was {weights.digest}'
      )
    return Source(MODEL, weights.digest, weights.digest, weights.version)


class TransferTransport:
  """From GPU to GPU by vLLM's own engines, 'nccl' and 'ipc'.

  A process of ours reads and hashes the file (`generation/vllm/transfer.py`). These engines replace
  weights layer by layer, and after half of that vLLM 0.32 computes with wrong ones for good. So
  meanwhile the server names them neither as before nor as after. A server that is found with that
  name is refused until it is started again: here, at every sync, and for each token by
  `Client.complete`.
  """

  def __init__(
    self,
    settings: Vllm,
    log: pathlib.Path,
    launch: Launch = Launch(),  # noqa: B008 - an immutable tuple
    *,
    make_sender: Callable[[Vllm, pathlib.Path, Launch], Sender] = Sender,
  ):
    """Makes a transport; the process starts with `ready`.

    Args:
      settings: transport, GPUs and addresses.
      log: of the process.
      launch: of the process.
      make_sender: starts the process.
    """
    self._settings = settings
    self._log = log
    self._launch = launch
    self._make_sender = make_sender
    self._sender: Sender | None = None
    self._sent: str | None = None

  def ready(self) -> None:
    """See `Transport.ready`."""
    self._running_sender()

  def _running_sender(self) -> Sender:
    if self._sender is None:
      self._sender = self._make_sender(self._settings, self._log, self._launch)
    return self._sender

  @property
  def sender_pid(self) -> int | None:
    """Process id of the sender, None where it does not run."""
    return None if self._sender is None else self._sender.pid

  def deliver(self, client: Client, weights: Weights) -> Source:
    """See `Transport.deliver`."""
    version = client.weight_version()
    if version.startswith(HALF):
      raise WrongWeightsError(
        f'the server holds a part of weights {version.removeprefix(HALF)}, since their '
        'transfer broke off; start it again'
      )
    # Someone else has given it weights since, and so has the connection.
    if self._sent is not None and self._sent != version:
      self.close()
    if self._sent is None:
      self._check_devices(client)
    self._running_sender().send(client.address, weights.path, weights.digest)
    self._sent = weights.digest
    return Source(MODEL, weights.digest, weights.digest, weights.version)

  def _check_devices(self, client: Client) -> None:
    devices = client.get('/get_world_size')
    if devices != {'world_size': self._settings.tensor_parallel}:
      raise ReplyError(
        'the server has its model on other devices than vllm.tensor_parallel = '
        f'{self._settings.tensor_parallel} says: {devices}; bind the same'
      )

  def close(self) -> None:
    """See `Transport.close`."""
    if self._sender is not None:
      self._sender.stop()
    self._sender = None
    self._sent = None


class ReloadTransport(_Requests):
  """By vLLM's reload of a checkpoint directory, whose file is hashed here, before and after."""

  def deliver(self, client: Client, weights: Weights) -> Source:
    """See `Transport.deliver`."""
    _check_unchanged(weights)
    directory = str(weights.path.parent.absolute())
    client.post(
      '/collective_rpc', {'method': 'reload_weights', 'kwargs': {'weights_path': directory}}
    )
    _check_unchanged(weights)
    client.post('/update_weight_version', {'new_version': weights.digest})
    return Source(MODEL, weights.digest, weights.digest, weights.version)


class LoraTransport(_Requests):
  """As an adapter on the base that the server was started with, named by its digest.

  The adapter before it is taken out.
  """

  _loaded: str | None = None

  def deliver(self, client: Client, weights: Weights) -> Source:
    """See `Transport.deliver`."""
    _check_unchanged(weights)
    if weights.digest != self._loaded:
      # In place of one of this name, which a client before this one may have left there.
      adapter = {
        'lora_name': weights.digest,
        'lora_path': str(weights.path.parent.absolute()),
        'load_inplace': True,
      }
      # vLLM answers both requests in words, not in JSON.
      client.request('POST', '/v1/load_lora_adapter', body=adapter)
      before = self._loaded
      self._loaded = weights.digest
      if before is not None:
        client.request('POST', '/v1/unload_lora_adapter', body={'lora_name': before})
    _check_unchanged(weights)
    listed = client.get('/v1/models')
    if weights.digest not in [model.get('id') for model in listed.get('data', [])]:
      raise WrongWeightsError(f'the server does not list adapter {weights.digest}')
    return Source(weights.digest, client.weight_version(), weights.digest, weights.version)


TRANSPORTS: dict[str, Callable[[Vllm, pathlib.Path, Launch], Transport]] = {
  'file': FileTransport,
  'nccl': TransferTransport,
  'ipc': TransferTransport,
  'reload': ReloadTransport,
  'lora': LoraTransport,
}


def _check_unchanged(weights: Weights) -> None:
  digest = file_digest(weights.path)
  if digest != weights.digest:
    raise WrongWeightsError(f'{weights.path} has SHA-256 {digest}, announced was {weights.digest}')
