"""What generates, and how a vLLM server is started, or where one is; how weights reach it, and what is asked of them before it generates."""

import dataclasses

from aevo_jax.config.configurables import configurable

ENGINES = ('jax', 'vllm')
DTYPES = ('float32', 'bfloat16', 'float16')
CARRIERS = ('file', 'reload', 'lora')


@configurable('evaluation')
@dataclasses.dataclass(frozen=True)
class Evaluation:
  """engine: what generates the answers that are scored, 'jax', the sampler in the evaluator's own process, or 'vllm', a server of its own for evaluator and arbiter each (`Vllm`)."""

  engine: str = 'jax'

  def __post_init__(self):
    if self.engine not in ENGINES:
      raise ValueError(f'evaluation.engine must be one of {", ".join(ENGINES)}, got {self.engine!r}')


@configurable('vllm')
@dataclasses.dataclass(frozen=True)
class Vllm:
  """A server.

  Attributes:
    url: of one that runs already (http://..., or unix:/path of its socket), which must read the files of this machine; '' starts one.
    python: of vLLM's environment; '' is third_party/vllm/.venv.
    dtype: of weights and activations. max_model_len: tokens of a prompt and its completion. max_num_seqs: requests that decode together. tensor_parallel: devices a model is spread over.
    memory: share of a GPU's memory that the server takes. cpu_cache_gib: memory of keys and values on a CPU. eager: compile nothing; starts sooner, decodes slower.
    carrier: how weights reach it: 'file', read by the server from a safetensors file whose SHA-256 it checks; 'reload', vLLM's own reload of a checkpoint directory; 'lora', as an adapter.
    lora_rank: largest rank of adapters, read by carrier 'lora' alone.
    gap: the probe's log-probabilities may be so far from JAX's, in nats: for float32. What bfloat16 needs was not measured; a wider gap tells less.
    concurrency: requests under way. startup_s: a server that does not answer for so long after its start has failed. request_s: so has a request. retries: how often the server is begun
      again, and the request repeated, before the caller is told.
  """

  url: str = ''
  python: str = ''
  dtype: str = 'float32'
  max_model_len: int = 2048
  max_num_seqs: int = 64
  tensor_parallel: int = 1
  memory: float = 0.9
  cpu_cache_gib: int = 1
  eager: bool = True
  carrier: str = 'file'
  lora_rank: int = 32
  gap: float = 1e-3
  concurrency: int = 64
  startup_s: float = 600.0
  request_s: float = 600.0
  retries: int = 2

  def __post_init__(self):
    for field, options in (('dtype', DTYPES), ('carrier', CARRIERS)):
      if getattr(self, field) not in options:
        raise ValueError(f'vllm.{field} must be one of {", ".join(options)}, got {getattr(self, field)!r}')
    for field, low, high in (('max_model_len', 16, 2**24), ('max_num_seqs', 1, 2**16), ('tensor_parallel', 1, 2**12), ('memory', 0.01, 1), ('cpu_cache_gib', 1, 2**12), ('lora_rank', 1, 512),
                             ('gap', 1e-7, 10), ('concurrency', 1, 2**12), ('startup_s', 1, 86400), ('request_s', 0.1, 86400), ('retries', 0, 2)):
      if not low <= getattr(self, field) <= high:
        raise ValueError(f'vllm.{field} must lie in [{low}, {high}], got {getattr(self, field)}')
    if self.carrier != 'lora' and self.lora_rank != 32:
      raise ValueError(f"nothing reads vllm.lora_rank while vllm.carrier = {self.carrier!r}; leave it out")
    if self.url and not self.url.startswith(('http://', 'https://', 'unix:/')):
      raise ValueError(f"vllm.url must begin with http://, https:// or unix:/, got {self.url!r}")
