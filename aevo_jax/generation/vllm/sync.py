"""Weights into a server, by several carriers and one protocol.

  1. carry      the carrier announces the SHA-256 of a safetensors file, and the server loads what
     is in it in place
  2. forget     its prefix cache, which holds keys and values of the weights before
  3. compare    the digest that the server reports, and the log-probabilities of a probe with those
     that JAX computes of the same weights

Only then may it generate. The probe's prompts are the same every time and longer than a block of
the cache, so that a cache which was not forgotten answers them with keys of other weights and is
found out.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.config.inference import Vllm
from aevo_jax.generation.protocol import Request, Sampling
from aevo_jax.generation.vllm.client import (
  MODEL,
  Client,
  ReplyError,
  ServerDownError,
  Source,
  WrongWeightsError,
)
from aevo_jax.generation.vllm.transfer import HALF, Sender
from aevo_jax.models.params import Params, Structure

PROBES, PROBE_TOKENS, PROBE_NEW = (0.0, 0.7), 160, 8  # temperatures
BROKEN_OFF = 'aevo-broken-off'  # what a server's weights are called while a file is loaded


class Weights(NamedTuple):
  """path: of the safetensors file (of an adapter: in its directory). digest: its SHA-256, as
  whoever vouches for it says. params: the same weights for JAX, adapters included.
  """

  path: pathlib.Path
  digest: str
  params: Params
  version: int = 0


class Carrier(Protocol):
  """A way for weights into one server, from its start to its end."""

  def ready(self) -> None:
    """Before a server is started for it.

    Raises:
      InferenceError: it can carry nothing on this machine.
    """

  def carry(self, client: Client, weights: Weights) -> Source:
    """Has the server load them; whose completions are to be asked for then.

    Raises:
      InferenceError: it did not. What it holds now is unknown.
    """

  def close(self) -> None:
    """Ends what it started."""


class _Asking:
  """Of a carrier that has only to ask the server. log: nothing is written there."""

  def __init__(self, settings: Vllm, log: pathlib.Path):
    pass

  def ready(self) -> None:
    pass

  def close(self) -> None:
    pass


class FileCarrier(_Asking):
  """By vLLM's weight-transfer interface, from a file that its workers read and hash
  (`generation/vllm_side/aevo_weights.py`).
  """

  _begun = False

  def carry(self, client: Client, weights: Weights) -> Source:
    if not self._begun:
      client.post('/init_weight_transfer_engine', {'init_info': {}})
      self._begun = True
    try:
      client.post(
        '/start_weight_update',
        headers={'Connection': 'close'},
        # a server that fails here closes the connection, and at that moment the next request would
        # be on it
      )
    # perhaps an update that broke off, which vLLM still waits for; of a file all was loaded or
    # nothing
    except ServerDownError:
      client.post('/finish_weight_update', {'weight_version': BROKEN_OFF})
      client.post('/start_weight_update')
    client.post('/update_weight_version', {'new_version': BROKEN_OFF})  # until it has all of them
    client.post(
      '/update_weights',
      {'update_info': {'path': str(weights.path.absolute()), 'sha256': weights.digest}},
    )
    client.post('/finish_weight_update', {'weight_version': weights.digest})
    loaded = client.post('/collective_rpc', {'method': 'aevo_loaded'})
    if not isinstance(loaded, dict) or set(loaded.get('results') or ['']) != {
      weights.digest
    }:  # another client's, say: the name is what was said last, by anybody
      raise WrongWeightsError(
        f'the workers say that they loaded {loaded}, announced was {weights.digest}'
      )
    return Source(MODEL, weights.digest, weights.digest, weights.version)


class TransferCarrier:
  """From GPU to GPU by vLLM's own engines, 'nccl' and 'ipc', from a file that a process of ours
  reads and hashes (`generation/vllm/transfer.py`).

  These replace weights layer by layer, and after half of that vLLM 0.32 computes with wrong ones
  for good. So meanwhile the server names them neither as before nor as after, and if that is what
  it is found with, it is refused until it is started again: here, at every sync, and for each token
  by `Client.complete`. log: of the process.
  """

  def __init__(self, settings: Vllm, log: pathlib.Path):
    self._settings, self._log = settings, log
    self._sender: Sender | None = None
    self._sent: str | None = None

  def ready(self) -> None:
    if self._sender is None:
      self._sender = Sender(self._settings, self._log)

  def carry(self, client: Client, weights: Weights) -> Source:
    told = client.weight_version()
    if told.startswith(HALF):
      raise WrongWeightsError(
        f'the server holds a part of weights {told.removeprefix(HALF)}, since their '
        'transfer broke off; start it again'
      )
    if self._sent not in (
      None,
      told,
    ):  # someone else has given it weights since, and so has the connection
      self.close()
    if self._sent is None and (devices := client.ask('GET', '/get_world_size')) != {
      'world_size': self._settings.tensor_parallel
    }:
      raise ReplyError(
        'the server has its model on other devices than vllm.tensor_parallel = '
        f'{self._settings.tensor_parallel} says: {devices}; bind the same'
      )
    self.ready()
    self._sender.send(client.address, weights.path, weights.digest)
    self._sent = weights.digest
    return Source(MODEL, weights.digest, weights.digest, weights.version)

  def close(self) -> None:
    if self._sender is not None:
      self._sender.stop()
    self._sender = self._sent = None


class ReloadCarrier(_Asking):
  """By vLLM's reload of a checkpoint directory, whose file is hashed here, before and after."""

  def carry(self, client: Client, weights: Weights) -> Source:
    _unchanged(weights)
    client.post(
      '/collective_rpc',
      {'method': 'reload_weights', 'kwargs': {'weights_path': str(weights.path.parent.absolute())}},
    )
    _unchanged(weights)
    client.post('/update_weight_version', {'new_version': weights.digest})
    return Source(MODEL, weights.digest, weights.digest, weights.version)


class LoraCarrier(_Asking):
  """As an adapter on the base that the server was started with, named by its digest; the one before
  is taken out.
  """

  _loaded: str | None = None

  def carry(self, client: Client, weights: Weights) -> Source:
    _unchanged(weights)
    if weights.digest != self._loaded:
      # In place of one of this name, which a client before this one may have left there.
      client.post(
        '/v1/load_lora_adapter',
        {
          'lora_name': weights.digest,
          'lora_path': str(weights.path.parent.absolute()),
          'load_inplace': True,
        },
        said=True,
      )
      before, self._loaded = self._loaded, weights.digest
      if before is not None:
        client.post('/v1/unload_lora_adapter', {'lora_name': before}, said=True)
    _unchanged(weights)
    listed = client.ask('GET', '/v1/models')
    if weights.digest not in {m.get('id') for m in listed.get('data', [])}:
      raise WrongWeightsError(f'the server does not list adapter {weights.digest}')
    return Source(weights.digest, client.weight_version(), weights.digest, weights.version)


CARRIERS: dict[str, Callable[[Vllm, pathlib.Path], Carrier]] = {
  'file': FileCarrier,
  'nccl': TransferCarrier,
  'ipc': TransferCarrier,
  'reload': ReloadCarrier,
  'lora': LoraCarrier,
}


def _unchanged(weights: Weights) -> None:
  if (found := file_digest(weights.path)) != weights.digest:
    raise WrongWeightsError(f'{weights.path} has SHA-256 {found}, announced was {weights.digest}')


class Probe:
  """What a server with certain weights must say: a few tokens after fixed prompts, greedily and at
  a temperature.

  Args:
    gap: the largest difference of a log-probability from JAX's, in nats. max_model_len: the prompts
      fit into it.
  """

  def __init__(
    self,
    structure: Structure,
    vocabulary: int,
    *,
    eos_ids: Sequence[int],
    gap: float,
    max_model_len: int,
  ):
    length = min(PROBE_TOKENS, max_model_len - PROBE_NEW)
    allowed = np.setdiff1d(np.arange(vocabulary), eos_ids)
    self._prompts = [
      tuple(map(int, row))
      for row in np.random.default_rng(0).choice(allowed, (len(PROBES), length))
    ]
    self._structure, self._eos, self._gap = structure, tuple(eos_ids), gap
    divisors = jnp.array([t or 1.0 for t in PROBES])[:, None, None]
    self._logprobs = jax.jit(
      lambda params, tokens: jax.nn.log_softmax(
        self._structure.bind(params)(tokens, jnp.ones_like(tokens)).astype(jnp.float32) / divisors
      )
    )

  def check(self, client: Client, params: Params, source: Source) -> float:
    """The largest difference seen.

    Raises:
      WrongWeightsError: it is beyond the gap.
    """
    said = [
      client.complete(
        Request(prompt),
        Sampling(temperature=temperature, max_new_tokens=PROBE_NEW),
        source,
        eos_ids=self._eos,
        salt='aevo-probe',
      )
      for prompt, temperature in zip(self._prompts, PROBES)
    ]
    rows = np.zeros((len(PROBES), len(self._prompts[0]) + PROBE_NEW), np.int32)
    for row, prompt, found in zip(rows, self._prompts, said):
      row[: len(prompt) + len(found.tokens)] = prompt + found.tokens
    ours = np.asarray(self._logprobs(params, rows))
    start = len(self._prompts[0]) - 1
    gap = float(
      np.max(
        [
          abs(ours[i, start + k, token] - p)
          for i, found in enumerate(said)
          for k, (token, p) in enumerate(zip(found.tokens, found.logprobs))
        ]
      )
    )
    if not gap <= self._gap:  # nor is NaN
      raise WrongWeightsError(
        'the server does not compute with the weights it was given: a log-probability of '
        f"the probe is {gap:.3g} nats from JAX's, vllm.gap allows {self._gap:g}"
      )
    return gap


class Synced(NamedTuple):
  """source: whose completions may be asked for. gap: the probe's."""

  source: Source
  gap: float


def sync(client: Client, carrier: Carrier, weights: Weights, probe: Probe) -> Synced:
  """Has a server take weights and shows that it did.

  Raises:
    InferenceError: it did not, or it cannot be shown. Nothing may be generated with it then.
  """
  client.post('/pause', params={'mode': 'wait'})
  source = carrier.carry(client, weights)
  forgotten = client.post('/reset_prefix_cache')
  if not isinstance(forgotten, dict) or forgotten.get('success') is not True:
    raise ReplyError(f'the prefix cache was not reset: {forgotten}')
  client.post('/resume')
  if (told := client.weight_version()) != source.weights:
    raise WrongWeightsError(
      f'the server says that its weights are {told}, announced were {source.weights}'
    )
  return Synced(source, probe.check(client, weights.params, source))
