"""Synchronisation: one protocol that brings weights to a server and shows that it has them.

  1. deliver    the transport announces the SHA-256 of a safetensors file, and the server loads what
                is in it in place
  2. forget     its prefix cache, which holds keys and values of the weights before
  3. compare    the digest that the server reports, and the log-probabilities of a probe with those
                that JAX computes of the same weights

Only then may it generate. The probe's prompts are the same every time and longer than a block of
the cache, so that a cache which was not forgotten answers them with keys of other weights and is
found out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from aevo_jax.generation.protocol import Completion, Request, Sampling
from aevo_jax.generation.vllm.client import Client, ReplyError, Source, WrongWeightsError
from aevo_jax.generation.vllm.transports import Transport, Weights
from aevo_jax.models.params import Params, Structure

PROBE_TEMPERATURES = (0.0, 0.7)
PROBE_TOKENS = 160  # of a prompt
PROBE_NEW = 8


class Probe:
  """What a server with certain weights must answer: a few tokens after fixed prompts.

  One prompt is continued greedily and one at a temperature.
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
    """Samples the prompts, which are the same for every probe of these sizes.

    Args:
      structure: of the model.
      vocabulary: token ids are below it.
      eos_ids: end tokens, which no prompt holds.
      gap: the largest difference of a log-probability from JAX's, in nats.
      max_model_len: prompts and new tokens fit into it.
    """
    length = min(PROBE_TOKENS, max_model_len - PROBE_NEW)
    allowed = np.setdiff1d(np.arange(vocabulary), eos_ids)
    rows = np.random.default_rng(0).choice(allowed, (len(PROBE_TEMPERATURES), length))
    self._prompts = [tuple(row) for row in rows.tolist()]
    self._eos_ids = tuple(eos_ids)
    self._gap = gap
    divisors = jnp.array([temperature or 1.0 for temperature in PROBE_TEMPERATURES])
    divisors = divisors[:, None, None]

    def logprobs(
      params: Params, tokens: Int[Array, 'batch time']
    ) -> Float[Array, 'batch time vocab']:
      logits = structure.bind(params)(tokens, jnp.ones_like(tokens)).astype(jnp.float32)
      return jax.nn.log_softmax(logits / divisors)

    self._logprobs = jax.jit(logprobs)

  def check(self, client: Client, params: Params, source: Source) -> float:
    """Compares the server's log-probabilities with JAX's.

    Args:
      client: of the server.
      params: the weights that it should have.
      source: whose completions it should give.

    Returns:
      The largest difference, in nats.

    Raises:
      WrongWeightsError: it is beyond the gap.
    """
    completions = []
    for prompt, temperature in zip(self._prompts, PROBE_TEMPERATURES, strict=True):
      sampling = Sampling(temperature=temperature, max_new_tokens=PROBE_NEW)
      completions.append(
        client.complete(Request(prompt), sampling, source, eos_ids=self._eos_ids, salt='aevo-probe')
      )
    gap = self._largest_difference(params, completions)
    if not gap <= self._gap:  # nor is NaN
      raise WrongWeightsError(
        'the server does not compute with the weights it was given: a log-probability of '
        f"the probe is {gap:.3g} nats from JAX's, vllm.gap allows {self._gap:g}"
      )
    return gap

  def _largest_difference(self, params: Params, completions: Sequence[Completion]) -> float:
    length = len(self._prompts[0])
    rows = np.zeros((len(completions), length + PROBE_NEW), np.int32)
    for row, prompt, completion in zip(rows, self._prompts, completions, strict=True):
      row[: length + len(completion.tokens)] = prompt + completion.tokens
    ours = np.asarray(self._logprobs(params, rows))
    differences = []
    for line, completion in zip(ours, completions, strict=True):
      new = zip(completion.tokens, completion.logprobs, strict=True)
      for position, (token, logprob) in enumerate(new, start=length - 1):
        differences.append(abs(line[position, token] - logprob))
    return float(np.max(differences))


class Synced(NamedTuple):
  """Whose completions may be requested, and the probe's largest difference in nats."""

  source: Source
  gap: float


def sync(client: Client, transport: Transport, weights: Weights, probe: Probe) -> Synced:
  """Has a server take weights and shows that it did.

  Args:
    client: of the server.
    transport: brings the weights.
    weights: to bring.
    probe: compares the server with JAX.

  Returns:
    Whose completions may be requested now.

  Raises:
    InferenceError: it did not, or it cannot be shown. Nothing may be generated with it then.
  """
  client.post('/pause', params={'mode': 'wait'})
  source = transport.deliver(client, weights)
  reset = client.post('/reset_prefix_cache')
  if not isinstance(reset, dict) or reset.get('success') is not True:
    raise ReplyError(f'the prefix cache was not reset: {reset}')
  client.post('/resume')
  version = client.weight_version()
  if version != source.weights:
    raise WrongWeightsError(
      f'the server says that its weights are {version}, announced were {source.weights}'
    )
  return Synced(source, probe.check(client, weights.params, source))
