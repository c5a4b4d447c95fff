"""Weights into a server, by several carriers and one protocol.

  1. carry      the carrier announces the SHA-256 of a safetensors file, and the server loads it in place
  2. forget     its prefix cache, which holds keys and values of the weights before
  3. compare    the digest that the server reports, and the log-probabilities of a probe with those that JAX computes of the same weights

Only then may it generate. The probe's prompts are the same every time and longer than a block of the cache, so that a cache which was not forgotten answers them with keys of other weights and is found
out.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.generation.protocol import Completion, Request, Sampling
from aevo_jax.generation.vllm.client import MODEL, Client, ReplyError, Source, WrongWeightsError
from aevo_jax.models.params import Params, Structure

PROBES, PROBE_TOKENS, PROBE_NEW = 2, 160, 8


class Weights(NamedTuple):
  """path: of the safetensors file (of an adapter: in its directory). digest: its SHA-256, as whoever vouches for it says. params: the same weights for JAX, adapters included."""

  path: pathlib.Path
  digest: str
  params: Params
  version: int = 0


class Carrier(Protocol):
  """A way for weights into a server."""

  def carry(self, client: Client, weights: Weights) -> Source:
    """Has the server load them; whose completions are to be asked for then.

    Raises:
      InferenceError: it did not. What it holds now is unknown.
    """


class FileCarrier:
  """By vLLM's weight-transfer interface, from a file that its workers read and hash (`generation/vllm_side/aevo_weights.py`)."""

  def __init__(self):
    self._begun = False

  def carry(self, client: Client, weights: Weights) -> Source:
    if not self._begun:
      client.post('/init_weight_transfer_engine', {'init_info': {}})
      self._begun = True
    client.post('/start_weight_update')
    client.post('/update_weights', {'update_info': {'path': str(weights.path.absolute()), 'sha256': weights.digest}})
    client.post('/finish_weight_update', {'weight_version': weights.digest})
    return Source(MODEL, weights.digest, weights.digest, weights.version)


class ReloadCarrier:
  """By vLLM's reload of a checkpoint directory, whose file is hashed here, before and after."""

  def carry(self, client: Client, weights: Weights) -> Source:
    _unchanged(weights)
    client.post('/collective_rpc', {'method': 'reload_weights', 'kwargs': {'weights_path': str(weights.path.parent.absolute())}})
    _unchanged(weights)
    client.post('/update_weight_version', {'new_version': weights.digest})
    return Source(MODEL, weights.digest, weights.digest, weights.version)


class LoraCarrier:
  """As an adapter on the base that the server was started with, named by its digest; the one before is taken out."""

  def __init__(self):
    self._loaded: str | None = None

  def carry(self, client: Client, weights: Weights) -> Source:
    _unchanged(weights)
    if weights.digest != self._loaded:
      client.post('/v1/load_lora_adapter', {'lora_name': weights.digest, 'lora_path': str(weights.path.parent.absolute())}, said=True)
      before, self._loaded = self._loaded, weights.digest
      if before is not None:
        client.post('/v1/unload_lora_adapter', {'lora_name': before}, said=True)
    _unchanged(weights)
    listed = client.ask('GET', '/v1/models')
    if weights.digest not in {m.get('id') for m in listed.get('data', [])}:
      raise WrongWeightsError(f'the server does not list adapter {weights.digest}')
    return Source(weights.digest, client.weight_version(), weights.digest, weights.version)


CARRIERS: dict[str, Callable[[], Carrier]] = {'file': FileCarrier, 'reload': ReloadCarrier, 'lora': LoraCarrier}


def _unchanged(weights: Weights) -> None:
  if (found := file_digest(weights.path)) != weights.digest:
    raise WrongWeightsError(f'{weights.path} has SHA-256 {found}, announced was {weights.digest}')


class Probe:
  """What a server with certain weights must say: a few tokens after fixed prompts, greedily.

  Args:
    gap: the largest difference of a log-probability from JAX's, in nats. max_model_len: the prompts fit into it.
  """

  def __init__(self, structure: Structure, vocabulary: int, *, eos_ids: Sequence[int], gap: float, max_model_len: int):
    length = min(PROBE_TOKENS, max_model_len - PROBE_NEW)
    allowed = np.setdiff1d(np.arange(vocabulary), eos_ids)
    self._prompts = [tuple(map(int, row)) for row in np.random.default_rng(0).choice(allowed, (PROBES, length))]
    self._structure, self._eos, self._gap = structure, tuple(eos_ids), gap
    self._logprobs = jax.jit(lambda params, tokens: jax.nn.log_softmax(self._structure.bind(params)(tokens, jnp.ones_like(tokens)).astype(jnp.float32)))

  def check(self, client: Client, params: Params, source: Source) -> float:
    """The largest difference seen.

    Raises:
      WrongWeightsError: it is beyond the gap.
    """
    said = [client.complete(Request(prompt), Sampling(temperature=0.0, max_new_tokens=PROBE_NEW), source, eos_ids=self._eos, salt='aevo-probe') for prompt in self._prompts]
    rows = np.zeros((PROBES, len(self._prompts[0]) + PROBE_NEW), np.int32)
    for row, prompt, found in zip(rows, self._prompts, said):
      row[:len(prompt) + len(found.tokens)] = prompt + found.tokens
    ours = np.asarray(self._logprobs(params, rows))
    start = len(self._prompts[0]) - 1
    gaps = [abs(ours[i, start + k, token] - p) for i, found in enumerate(said) for k, (token, p) in enumerate(zip(found.tokens, found.logprobs))]
    if not max(gaps) <= self._gap:
      raise WrongWeightsError(f'the server does not compute with the weights it was given: a log-probability of the probe is {max(gaps):.3g} nats from JAX\'s, vllm.gap allows {self._gap:g}')
    return float(max(gaps))


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
    raise WrongWeightsError(f'the server says that its weights are {told}, announced were {source.weights}')
  return Synced(source, probe.check(client, weights.params, source))
