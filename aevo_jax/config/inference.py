"""Settings of generation: the engine, and a vLLM server with the way in which weights reach it."""

import dataclasses
import os
import urllib.parse
from typing import Annotated, NamedTuple

from annotated_types import Interval

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import OneOf, ReadWhen, one_of, refuse_unread

ENGINES = ('jax', 'vllm')
DTYPES = ('float32', 'bfloat16', 'float16')
TRANSPORTS = ('file', 'nccl', 'ipc', 'reload', 'lora')
# Transports of whatever was trained or sealed, to a server that knows the shape of the model alone.
WHOLE_TRANSPORTS = ('file', 'nccl', 'ipc')
# Settings that a server is started with.
_STARTED = ReadWhen(one_of('vllm.url', ''))
# The process that sends weights to a server is started here, whoever started the server.
_STARTED_OR_SENDER = ReadWhen(one_of('vllm.url', ''), one_of('vllm.carrier', 'nccl', 'ipc'))
_ADAPTERS = ReadWhen(one_of('vllm.carrier', 'lora'))
_LOOPBACK = ('localhost', '127.0.0.1', '::1')
_DEFAULT_PORTS = {'http': 80, 'https': 443}


class _Server(NamedTuple):
  """A server as its address names it: host and port, or the path of a socket."""

  host: str | None
  address: int | str | None


def same_server(one: str, other: str) -> bool:
  """Compares two addresses by their letters; nothing is looked up.

  Args:
    one: a URL that `check_url` accepts, not ''.
    other: another one.

  Returns:
    Whether both name one server.
  """
  return _server(one) == _server(other)


def _server(url: str) -> _Server:
  parts = urllib.parse.urlsplit(url)
  if parts.scheme == 'unix':
    return _Server('unix', os.path.realpath(parts.path))
  port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
  if parts.hostname in _LOOPBACK:
    return _Server('localhost', port)
  return _Server(parts.hostname, port)


def check_url(name: str, url: str) -> None:
  """Checks the address of a server; '' stands for none.

  Args:
    name: of the binding, for the error message.
    url: http://..., https://... or unix:/PATH.

  Raises:
    ValueError: it is another one.
  """
  if not url or url.startswith('unix:/'):
    return
  if not url.startswith(('http://', 'https://')) or not urllib.parse.urlsplit(url).hostname:
    raise ValueError(f'{name} must begin with http://, https:// or unix:/, got {url!r}')


@configurable('evaluation')
@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What generates the answers that are scored.

  Attributes:
    engine: 'jax' is the sampler in the evaluator's process; 'vllm' is one server for the evaluator
      and one for the arbiter (`Vllm`).
    arbiter_url: the arbiter's server, where vllm.url is the evaluator's. It gets other weights at
      the same time, and reads the holdout's questions.
  """

  engine: Annotated[str, OneOf(ENGINES)] = 'jax'
  arbiter_url: Annotated[str, ReadWhen(one_of('evaluation.engine', 'vllm'))] = ''

  def __post_init__(self):
    check_url('evaluation.arbiter_url', self.arbiter_url)


# Of the probe's tokens, in nats; benchmarks/logprob_gaps.py measures them.
PROBE_GAPS = {'float32': 1e-3, 'bfloat16': 1.0, 'float16': 1.0}


@configurable('vllm')
@dataclasses.dataclass(frozen=True)
class Vllm:
  """A vLLM server: where it runs or how it starts, how weights reach it, and its time limits.

  Attributes:
    url: of a server that runs already (http://..., or unix:/PATH of its socket). It must read the
      files of this machine unless carrier is 'nccl'. '' starts a server.
    python: of vLLM's environment; '' is third_party/vllm/.venv.
    dtype: of weights and activations.
    max_model_len: tokens of a prompt and its completion.
    max_num_seqs: requests that decode together.
    tensor_parallel: devices that a model is spread over.
    memory: share of a GPU's memory that the server takes.
    cpu_cache_gib: memory of keys and values on a CPU, in GiB.
    cpu_threads: on a CPU. 0 is all cores, each thread bound to one; in a campaign it is as many as
      evaluator and arbiter have.
    eager: compiles nothing; starts sooner and decodes slower.
    carrier: how weights reach the server. 'file': it reads a safetensors file and checks the
      SHA-256. 'nccl': from a GPU of this program to its GPUs. 'ipc': in the memory of the GPU that
      both use. 'reload': vLLM's own reload of a checkpoint directory. 'lora': as an adapter.
    transfer_address: of this machine, as the server's machine reaches it; read by carrier 'nccl'
      alone. '' is for a server on this machine.
    lora_rank: largest rank of adapters; read by carrier 'lora' alone.
    lora_slots: adapters in use at the same time; read by carrier 'lora' alone.
    gap: largest difference of the probe's log-probabilities from JAX's, in nats; None is the
      dtype's of `PROBE_GAPS`. A wider gap tells less.
    concurrency: requests under way.
    startup_s: seconds after its start within which a server must answer.
    request_s: seconds within which a request must be answered.
    retries: how often the server is restarted, and the request repeated, before the caller gets an
      error.
  """

  url: str = ''
  python: Annotated[str, _STARTED_OR_SENDER] = ''
  dtype: Annotated[str, OneOf(DTYPES), _STARTED] = 'float32'
  max_model_len: Annotated[int, Interval(ge=16, le=2**24)] = 2048
  max_num_seqs: Annotated[int, Interval(ge=1, le=2**16), _STARTED] = 256
  tensor_parallel: Annotated[int, Interval(ge=1, le=2**12), _STARTED_OR_SENDER] = 1
  memory: Annotated[float, Interval(ge=0.01, le=1), _STARTED] = 0.9
  cpu_cache_gib: Annotated[int, Interval(ge=1, le=2**12), _STARTED] = 1
  cpu_threads: Annotated[int, Interval(ge=0, le=2**12), _STARTED] = 0
  eager: Annotated[bool, _STARTED] = True
  carrier: Annotated[str, OneOf(TRANSPORTS)] = 'file'
  transfer_address: Annotated[str, ReadWhen(one_of('vllm.carrier', 'nccl'))] = ''
  lora_rank: Annotated[int, Interval(ge=1, le=512), _STARTED, _ADAPTERS] = 32
  lora_slots: Annotated[int, Interval(ge=1, le=512), _STARTED, _ADAPTERS] = 1
  gap: Annotated[float | None, Interval(ge=1e-7, le=10)] = None
  concurrency: Annotated[int, Interval(ge=1, le=2**12)] = 256
  startup_s: Annotated[float, Interval(ge=1, le=86400), _STARTED_OR_SENDER] = 600.0
  request_s: Annotated[float, Interval(ge=0.1, le=86400)] = 600.0
  retries: Annotated[int, Interval(ge=0, le=2)] = 2

  def __post_init__(self):
    refuse_unread(self, 'vllm')
    check_url('vllm.url', self.url)
    if self.carrier == 'ipc' and self.tensor_parallel != 1:
      raise ValueError(
        "vllm.carrier = 'ipc' shares the memory of one GPU, vllm.tensor_parallel is "
        f"{self.tensor_parallel}; bind vllm.carrier = 'nccl' or 'file'"
      )
    hostname = urllib.parse.urlsplit(self.url).hostname
    if self.url.startswith('http') and hostname not in _LOOPBACK:
      self._check_on_another_machine()

  @property
  def probe_gap(self) -> float:
    """The gap that is bound, or the dtype's."""
    return PROBE_GAPS[self.dtype] if self.gap is None else self.gap

  def _check_on_another_machine(self) -> None:
    """Refuses carriers that do not reach a server on another machine."""
    # Moreover, other machines must not reach a server that unpickles what it receives.
    if self.carrier == 'ipc':
      raise ValueError(
        f"vllm.carrier = 'ipc' is for a server on this machine, vllm.url is {self.url!r}; "
        "bind vllm.carrier = 'nccl', or vllm.url to unix:/path of its socket"
      )
    if self.carrier == 'nccl' and not self.transfer_address:
      raise ValueError(
        f"vllm.carrier = 'nccl' to {self.url!r} needs an address that it can reach; bind "
        "vllm.transfer_address to this machine's"
      )
