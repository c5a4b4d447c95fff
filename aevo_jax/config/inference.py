"""What generates, and how a vLLM server is started, or where one is; how weights reach it, and what
is asked of them before it generates.
"""

import dataclasses
import os
import urllib.parse
from typing import Annotated

from annotated_types import Interval

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import OneOf

ENGINES = ('jax', 'vllm')
DTYPES = ('float32', 'bfloat16', 'float16')
TRANSPORTS = ('file', 'nccl', 'ipc', 'reload', 'lora')
WHOLE_TRANSPORTS = (
  'file',
  'nccl',
  'ipc',
)  # which take whatever was trained or sealed to a server that has the model's shape alone
_LOOPBACK = ('localhost', '127.0.0.1', '::1')


# What a server is started with.
STARTS = (
  'python',
  'dtype',
  'max_num_seqs',
  'tensor_parallel',
  'memory',
  'cpu_cache_gib',
  'cpu_threads',
  'eager',
  'lora_rank',
  'lora_slots',
  'startup_s',
)


def server_of(url: str) -> tuple:
  """The same for two addresses of one server, as far as their letters say."""
  parts = urllib.parse.urlsplit(url)
  if parts.scheme == 'unix':
    return 'unix', os.path.realpath(parts.path)
  return 'localhost' if parts.hostname in _LOOPBACK else parts.hostname, parts.port or {
    'http': 80,
    'https': 443,
  }.get(parts.scheme)


def check_url(name: str, url: str) -> None:
  """Raises:
  ValueError: it is none; '' is.
  """
  if url and not (
    url.startswith('unix:/')
    or (url.startswith(('http://', 'https://')) and urllib.parse.urlsplit(url).hostname)
  ):
    raise ValueError(f'{name} must begin with http://, https:// or unix:/, got {url!r}')


@configurable('evaluation')
@dataclasses.dataclass(frozen=True)
class Evaluation:
  """engine: what generates the answers that are scored, 'jax', the sampler in the evaluator's own
  process, or 'vllm', a server of its own for evaluator and arbiter each (`Vllm`). arbiter_url:
  where vllm.url is the evaluator's server, that of the arbiter: it is given other weights at the
  same time, and is told the holdout's questions.
  """

  engine: Annotated[str, OneOf(ENGINES)] = 'jax'
  arbiter_url: str = ''

  def __post_init__(self):
    check_url('evaluation.arbiter_url', self.arbiter_url)


@configurable('vllm')
@dataclasses.dataclass(frozen=True)
class Vllm:
  """A server.

  Attributes:
    url: of one that runs already (http://..., or unix:/path of its socket), which must read the
      files of this machine unless carrier is 'nccl'; '' starts one.
    python: of vLLM's environment; '' is third_party/vllm/.venv.
    dtype: of weights and activations. max_model_len: tokens of a prompt and its completion.
      max_num_seqs: requests that decode together. tensor_parallel: devices a model is spread over.
    memory: share of a GPU's memory that the server takes. cpu_cache_gib: memory of keys and values
      on a CPU.
    cpu_threads: on a CPU; 0 is all cores, each thread bound to one, in a campaign as many as
      evaluator and arbiter have. eager: compile nothing; starts sooner, decodes slower.
    carrier: how weights reach it: 'file', read by the server from a safetensors file whose SHA-256
      it checks; 'nccl', from a GPU of ours to its GPUs; 'ipc', in the memory of the GPU that both
      use; 'reload', vLLM's own reload of a checkpoint directory; 'lora', as an adapter.
    transfer_address: of this machine, as the server's machine reaches it, read by carrier 'nccl'
      alone; '' is for a server on this machine.
    lora_rank: largest rank of adapters; lora_slots: adapters that may be used at the same time;
      read by carrier 'lora' alone.
    gap: the probe's log-probabilities may be so far from JAX's, in nats: for float32. What bfloat16
      needs was not measured; a wider gap tells less.
    concurrency: requests under way. startup_s: a server that does not answer for so long after its
      start has failed. request_s: so has a request. retries: how often the server is begun again,
        and the request repeated, before the caller is told.
  """

  url: str = ''
  python: str = ''
  dtype: Annotated[str, OneOf(DTYPES)] = 'float32'
  max_model_len: Annotated[int, Interval(ge=16, le=2**24)] = 2048
  max_num_seqs: Annotated[int, Interval(ge=1, le=2**16)] = 256
  tensor_parallel: Annotated[int, Interval(ge=1, le=2**12)] = 1
  memory: Annotated[float, Interval(ge=0.01, le=1)] = 0.9
  cpu_cache_gib: Annotated[int, Interval(ge=1, le=2**12)] = 1
  cpu_threads: Annotated[int, Interval(ge=0, le=2**12)] = 0
  eager: bool = True
  carrier: Annotated[str, OneOf(TRANSPORTS)] = 'file'
  transfer_address: str = ''
  lora_rank: Annotated[int, Interval(ge=1, le=512)] = 32
  lora_slots: Annotated[int, Interval(ge=1, le=512)] = 1
  gap: Annotated[float, Interval(ge=1e-7, le=10)] = 1e-3
  concurrency: Annotated[int, Interval(ge=1, le=2**12)] = 256
  startup_s: Annotated[float, Interval(ge=1, le=86400)] = 600.0
  request_s: Annotated[float, Interval(ge=0.1, le=86400)] = 600.0
  retries: Annotated[int, Interval(ge=0, le=2)] = 2

  def __post_init__(self):
    for field in ('lora_rank', 'lora_slots'):
      if self.carrier != 'lora' and getattr(self, field) != getattr(type(self), field):
        raise ValueError(
          f'nothing reads vllm.{field} while vllm.carrier = {self.carrier!r}; leave it out'
        )
    check_url('vllm.url', self.url)
    sends = (
      ('python', 'tensor_parallel', 'startup_s') if self.carrier in ('nccl', 'ipc') else ()
    )  # what sends weights is started here
    if self.url and (
      unread := [
        field
        for field in STARTS
        if field not in sends and getattr(self, field) != getattr(type(self), field)
      ]
    ):
      raise ValueError(
        f'nothing reads vllm.{unread[0]} while vllm.url names a server that runs: it is '
        'for one that is started; leave it out'
      )
    if self.carrier != 'nccl' and self.transfer_address:
      raise ValueError(
        f'nothing reads vllm.transfer_address while vllm.carrier = {self.carrier!r}; leave it out'
      )
    if self.carrier == 'ipc' and self.tensor_parallel != 1:
      raise ValueError(
        "vllm.carrier = 'ipc' shares the memory of one GPU, vllm.tensor_parallel is "
        f"{self.tensor_parallel}; bind vllm.carrier = 'nccl' or 'file'"
      )
    elsewhere = (
      self.url.startswith('http') and urllib.parse.urlsplit(self.url).hostname not in _LOOPBACK
    )
    if (
      elsewhere and self.carrier == 'ipc'
    ):  # nor may a server that unpickles what it is sent be reached from other machines
      raise ValueError(
        f"vllm.carrier = 'ipc' is for a server on this machine, vllm.url is {self.url!r}; "
        "bind vllm.carrier = 'nccl', or vllm.url to unix:/path of its socket"
      )
    if elsewhere and self.carrier == 'nccl' and not self.transfer_address:
      raise ValueError(
        f"vllm.carrier = 'nccl' to {self.url!r} needs an address that it can reach; bind "
        "vllm.transfer_address to this machine's"
      )
