"""Runs in vLLM's environment, not here: vLLM's own trainer-side engine, given tensors of a file and
a server's HTTP interface.
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
    self._device = device
    self.tensors: dict[str, torch.Tensor] = {}

  def metadata(self):
    return [
      ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors.items()
    ]

  def __iter__(self):
    for name, tensor in self.tensors.items():
      yield name, tensor.to(self._device)


class _Unix(http.client.HTTPConnection):
  """To the socket whose path stands in the place of a host."""

  def connect(self) -> None:
    self.sock = socket.socket(socket.AF_UNIX)
    self.sock.settimeout(self.timeout)
    self.sock.connect(self.host)


class Client(HTTPVLLMWeightSyncClient):
  """vLLM's own, at unix:/path as well as http://host:port.

  mark: what the server calls its weights from before the first of them is replaced. digest: and as
  soon as it has all. fail: called with what went wrong in whichever thread that was, never returns:
  the other one may wait in NCCL for a server that refused.
  """

  def __init__(self, address: str, timeout: float, fail: Callable[[str], None]):
    super().__init__(address, timeout)
    self._fail = fail
    self.mark = self.digest = ''

  def _post(
    self, path: str, body: dict | None = None
  ) -> None:  # what all of vLLM's calls come down to
    url = urllib.parse.urlsplit(self.base_url)
    try:
      if url.scheme == 'unix':
        to, prefix = _Unix(url.path, timeout=self.timeout), ''
      else:
        to, prefix = (
          (http.client.HTTPSConnection if url.scheme == 'https' else http.client.HTTPConnection)(
            url.hostname, url.port, timeout=self.timeout
          ),
          url.path,
        )
      to.request(
        'POST',
        f'{prefix}/{path}',
        None if body is None else json.dumps(body).encode(),
        {} if body is None else {'Content-Type': 'application/json'},
      )
      reply = to.getresponse()
      said = reply.read().decode(errors='replace')
      to.close()
    except (OSError, http.client.HTTPException) as error:
      self._fail(f'POST /{path}: {type(error).__name__}: {error}')
    if reply.status >= 300:
      self._fail(f'POST /{path}: status {reply.status}: {said[:300]}')

  def init_weight_transfer_engine(self, init_info: dict) -> None:
    self._post('shutdown_weight_transfer_engine')  # the connection of a sender before this one
    super().init_weight_transfer_engine(init_info)

  def start_weight_update(self) -> None:
    self._post('update_weight_version', {'new_version': self.mark})
    super().start_weight_update()

  def finish_weight_update(self, weight_version: str | None = None) -> None:
    super().finish_weight_update(self.digest)


def _free_port(address: str) -> int:
  with socket.socket() as found:
    found.bind((address, 0))
    return found.getsockname()[1]


def connect(
  backend: str, client: Client, source: Source, *, master: str, world: int
) -> TrainerWeightTransferEngine:
  """The engine, connected to the server. master: address of this machine that the server's workers
  meet it at. world: their number, and one. `source` has tensors of the sizes that are to come.
  """
  size = max(BUFFER, *(m.dtype.itemsize * torch.Size(m.shape).numel() for m in source.metadata()))
  if backend == 'nccl':
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    info = NCCLTrainerInitInfo(
      rank=0,
      master_address=master,
      master_port=_free_port(master),
      world_size=world,
      packed=True,
      packed_buffer_size_bytes=size,
    )
  else:
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    info = IPCTrainerInitInfo(rank=0, packed=True, packed_buffer_size_bytes=size)
  return WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)
