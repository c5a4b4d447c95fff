"""vLLM's own trainer-side engine, given tensors of a file and a server's HTTP interface.

This runs in vLLM's environment, not here.
"""

import http.client
import json
import socket
import urllib.parse
from collections.abc import Callable

import torch
from vllm.distributed.weight_transfer.base import (
  ParamMeta,
  TrainerWeightTransferEngine,
  WeightSource,
)
from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

BUFFER = 2**28  # bytes that are sent at a time; more where a tensor is larger


class Source(WeightSource):
  """Tensors in their order, each brought to the GPU when its turn comes."""

  def __init__(self, device: torch.device):
    """Makes a source without tensors, of which each goes to `device`."""
    self._device = device
    self.tensors: dict[str, torch.Tensor] = {}

  def metadata(self) -> list[ParamMeta]:
    """Returns name, dtype and shape of every tensor, in order."""
    metadata = []
    for name, tensor in self.tensors.items():
      metadata.append(ParamMeta(name, tensor.dtype, tuple(tensor.shape)))
    return metadata

  def __iter__(self):
    for name, tensor in self.tensors.items():
      yield name, tensor.to(self._device)


class _Unix(http.client.HTTPConnection):
  """A connection to the socket whose path stands in the place of a host."""

  def connect(self) -> None:
    self.sock = socket.socket(socket.AF_UNIX)
    self.sock.settimeout(self.timeout)
    self.sock.connect(self.host)


class Client(HTTPVLLMWeightSyncClient):
  """vLLM's own client, at unix:/path as well as http://host:port.

  Attributes:
    mark: what the server calls its weights from before the first of them is replaced.
    digest: what it calls them as soon as it has all.
  """

  def __init__(self, address: str, timeout: float, fail: Callable[[str], None]):
    """Makes a client.

    Args:
      address: of the server.
      timeout: seconds that a request may take.
      fail: is called with what went wrong, in whichever thread that was, and never returns: the
        other thread may wait in NCCL for a server that refused.
    """
    super().__init__(address, timeout)
    self._fail = fail
    self.mark = ''
    self.digest = ''

  def _connection(self) -> http.client.HTTPConnection:
    url = urllib.parse.urlsplit(self.base_url)
    if url.scheme == 'unix':
      return _Unix(url.path, timeout=self.timeout)
    if url.scheme == 'https':
      return http.client.HTTPSConnection(url.hostname, url.port, timeout=self.timeout)
    return http.client.HTTPConnection(url.hostname, url.port, timeout=self.timeout)

  def _post(self, path: str, body: dict | None = None) -> None:
    """Sends a request; all of vLLM's calls come down to this."""
    url = urllib.parse.urlsplit(self.base_url)
    prefix = '' if url.scheme == 'unix' else url.path
    content = None
    headers = {}
    if body is not None:
      content = json.dumps(body).encode()
      headers['Content-Type'] = 'application/json'
    try:
      connection = self._connection()
      connection.request('POST', f'{prefix}/{path}', content, headers)
      reply = connection.getresponse()
      text = reply.read().decode(errors='replace')
      connection.close()
    except (OSError, http.client.HTTPException) as error:
      self._fail(f'POST /{path}: {type(error).__name__}: {error}')
    if reply.status >= 300:
      self._fail(f'POST /{path}: status {reply.status}: {text[:300]}')

  def init_weight_transfer_engine(self, init_info: dict) -> None:
    """Closes the connection of a sender before this one, and opens one."""
    self._post('shutdown_weight_transfer_engine')
    super().init_weight_transfer_engine(init_info)

  def start_weight_update(self) -> None:
    """Marks the weights before the first of them is replaced."""
    self._post('update_weight_version', {'new_version': self.mark})
    super().start_weight_update()

  def finish_weight_update(self, weight_version: str | None = None) -> None:
    """Names the weights by their digest."""
    super().finish_weight_update(self.digest)


def _free_port(address: str) -> int:
  with socket.socket() as probe:
    probe.bind((address, 0))
    return probe.getsockname()[1]


def connect(
  backend: str, client: Client, source: Source, *, master: str, world: int
) -> TrainerWeightTransferEngine:
  """Connects vLLM's engine to a server.

  Args:
    backend: 'nccl' or 'ipc'.
    client: of the server.
    source: has tensors of the sizes that are to come.
    master: address of this machine at which the server's workers meet the engine.
    world: their number, and one.

  Returns:
    The engine.
  """
  size = BUFFER
  for parameter in source.metadata():
    size = max(size, parameter.dtype.itemsize * torch.Size(parameter.shape).numel())
  if backend == 'nccl':
    from vllm.distributed.weight_transfer import nccl_engine  # noqa: PLC0415 - with nccl alone

    info = nccl_engine.NCCLTrainerInitInfo(
      rank=0,
      master_address=master,
      master_port=_free_port(master),
      world_size=world,
      packed=True,
      packed_buffer_size_bytes=size,
    )
  else:
    from vllm.distributed.weight_transfer import ipc_engine  # noqa: PLC0415 - with ipc alone

    info = ipc_engine.IPCTrainerInitInfo(rank=0, packed=True, packed_buffer_size_bytes=size)
  return WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)
