"""Weights that vLLM's workers read from a safetensors file on their machine.

This runs inside vLLM, not here. A server of ours is started with `--worker-extension-cls
aevo_weights.Worker --weight-transfer-config '{"backend": "aevo_file"}'` and this folder on its
PYTHONPATH. A worker reads the file once, hashes what it read, and loads those very bytes: another
digest than the one that was announced loads nothing.
"""

import dataclasses

import aevo_tensors
from vllm.distributed.weight_transfer.base import (
  WeightTransferEngine,
  WeightTransferInitInfo,
  WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import (
  finalize_layerwise_reload,
  initialize_layerwise_reload,
)


@dataclasses.dataclass
class Init(WeightTransferInitInfo):
  """Nothing is agreed upon beforehand."""


@dataclasses.dataclass
class Update(WeightTransferUpdateInfo):
  """One update.

  Attributes:
    path: of a safetensors file with all weights by Hugging Face's names.
    sha256: of its bytes, in hex.
  """

  path: str
  sha256: str


class FileEngine(WeightTransferEngine[Init, Update]):
  """Loads layer by layer, as vLLM's NCCL engine does, into the layout of the running kernels.

  The whole load is one step, so that a file which is not taken changes nothing: after the first
  half of a reload alone, vLLM 0.32 computes with wrong weights whatever is loaded next.
  """

  init_info_cls = Init
  update_info_cls = Update
  loaded = ''  # SHA-256 of the file whose weights it has

  def init_transfer_engine(self, init_info: Init) -> None:
    """Does nothing."""

  def start_weight_update(self) -> None:
    """Does nothing."""

  def receive_weights(self, update_info: Update) -> None:
    """Loads a file, or raises `aevo_tensors.RefusedError` and changes nothing."""
    weights = aevo_tensors.read(update_info.path, update_info.sha256)
    self.loaded = ''
    initialize_layerwise_reload(self.model)
    self.model.load_weights(iter(weights.items()))
    finalize_layerwise_reload(self.model, self.model_config)
    self.loaded = update_info.sha256

  def finish_weight_update(self) -> None:
    """Does nothing."""

  def shutdown(self) -> None:
    """Does nothing."""


class Worker:
  """What vLLM mixes into its worker. Importing its module registers the engine."""

  def aevo_loaded(self) -> str:
    """Returns the SHA-256 of the file whose weights this worker has, '' if of none.

    The server's name for its weights is only what was announced last, by anybody.
    """
    return self.weight_transfer_engine.loaded


WeightTransferEngineFactory.register_engine('aevo_file', FileEngine)
