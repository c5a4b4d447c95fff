"""For tests, inside vLLM's environment: vLLM's NCCL and CUDA IPC engines on a machine without a
GPU, with nothing replaced but what moves the bytes.

  nccl   PyNcclCommunicator.broadcast hands the tensor over in the store at which the group has met
  (vLLM's StatelessProcessGroup) ipc    the buffer that both processes have is a file in shared
  memory, and its handle that file's name

A server imports it as the extension of its workers (`--worker-extension-cls cpu_transport.Worker`);
as a program it is the sender. AEVO_CPU_TRANSPORT is a directory for both; a file `kill` in it ends
the sender by SIGKILL in the middle of its next weights.
"""

import contextlib
import itertools
import os
import pathlib
import signal
import tempfile
import types

import torch
from vllm.distributed.device_communicators import pynccl
from vllm.distributed.weight_transfer import ipc_engine, nccl_common, nccl_engine, packed_tensor

DIRECTORY = pathlib.Path(os.environ['AEVO_CPU_TRANSPORT'])
SENDER = __name__ == '__main__'


_BUFFERS = itertools.count(1)


def _perhaps_end() -> None:
  """Of the sender, at each of its buffers."""
  if next(_BUFFERS) >= 4 and (kill := DIRECTORY / 'kill').exists():
    kill.unlink()
    os.kill(os.getpid(), signal.SIGKILL)


class Communicator:
  """In the place of PyNcclCommunicator."""

  def __init__(self, group, device):
    self._group = group

  def broadcast(self, tensor, src, stream=None):
    if self._group.rank == src:
      _perhaps_end()
      self._group.broadcast(tensor, src)
    else:
      tensor.copy_(self._group.broadcast(tensor, src))

  def destroy(self):
    self._group = None


class _Stream:
  def __init__(self, device=None):
    pass

  def synchronize(self):
    pass


def _shared(path, size):
  return torch.from_file(path, shared=True, size=size, dtype=torch.uint8)


def _empty(*size, device=None, **how):
  if str(device) != 'cuda':
    return torch.empty(*size, device=device, **how)
  file, path = tempfile.mkstemp(dir=DIRECTORY)
  os.close(file)
  buffer = _shared(path, size[0])
  buffer.path = path
  return buffer


def _reduce(buffer):
  return _rebuild, (
    buffer.path,
    len(buffer),
    0,
    0,
    0,
    0,
    None,
  )  # the device's index is the seventh, as of CUDA's


def _rebuild(path, size, *_):
  buffer = _shared(path, size)
  pathlib.Path(path).unlink()  # each export is opened once
  return buffer


class _Cuda:
  Stream = _Stream

  def __getattr__(self, name):
    return getattr(torch.cuda, name)

  def current_stream(self):
    if SENDER:  # CUDA IPC synchronizes before each buffer is told
      _perhaps_end()
    return _Stream()

  def stream(self, stream):
    return contextlib.nullcontext()

  def get_device_properties(self, index):
    return types.SimpleNamespace(uuid='a CPU')

  def ipc_collect(self):
    pass


class _Torch:
  """torch, as vLLM's modules of weight transfer see it."""

  cuda, accelerator, empty = (
    _Cuda(),
    types.SimpleNamespace(current_device_index=lambda: 0),
    staticmethod(_empty),
  )

  def __getattr__(self, name):
    return getattr(torch, name)


class Worker:
  """What vLLM mixes into its worker. Importing its module is what counts."""


# vLLM takes none of these as an argument.
pynccl.PyNcclCommunicator = Communicator
for module in (ipc_engine, nccl_common, nccl_engine, packed_tensor):
  module.torch = _Torch()
ipc_engine.reduce_tensor = packed_tensor.reduce_tensor = _reduce
ipc_engine.rebuild_cuda_tensor = torch.multiprocessing.reductions.rebuild_cuda_tensor = _rebuild

if SENDER:
  import aevo_sender
  import aevo_trainer

  def on_the_cpu(backend, index):
    return torch.device('cpu')

  aevo_sender.pick = on_the_cpu
  aevo_trainer.BUFFER = 2**17
  aevo_sender.main()
