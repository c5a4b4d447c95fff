"""What tests against a real vLLM server share: models in directories, an engine of each, faults put
between it and the server, and the server's processes.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import time
from collections.abc import Callable

import httpx2
import jax
import numpy as np

from aevo_jax import layout
from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.config.inference import Vllm
from aevo_jax.generation.protocol import Request, Sampling
from aevo_jax.generation.vllm.engine import VllmEngine
from aevo_jax.generation.vllm.server import Launch
from aevo_jax.models import weights as weights_lib
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import outline, unbind

BASE = layout.root_file('substrate') / 'base'
EOS, PAD = 2, 0
MODELS = ('nemotron_h', 'qwen3')
QWEN3 = ModelConfig(
  family='qwen3',
  vocab_size=122,
  hidden_size=128,
  pattern='*-*-*-',
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=32,
  rope_theta=10000.0,
  qk_norm=True,
  intermediate_size=256,
  mlp_activation='swiglu',
  layer_norm_epsilon=1e-6,
  tie_word_embeddings=True,
)
SETTINGS = Vllm(max_model_len=512, startup_s=180.0, request_s=60.0)


def write_model(directory: pathlib.Path, name: str) -> None:
  """The committed base, or a Qwen3 with random weights and its tokenizer."""
  for file in (
    'config.json',
    'tokenizer.json',
    'tokenizer_config.json',
    'generation_config.json',
    'model.safetensors',
  ):
    shutil.copyfile(BASE / file, directory / file)
  if name == 'qwen3':
    _, params = unbind(create(QWEN3, 0))
    (directory / 'config.json').write_text(
      json.dumps(checkpoint.config_to_hf(QWEN3, eos_token_id=EOS, pad_token_id=PAD))
    )
    checkpoint.save_weights(
      directory / 'model.safetensors', {name: 2 * value for name, value in params.items()}, QWEN3
    )  # so that it is sure of something


@dataclasses.dataclass
class Fault:
  """What happens to a request of this path: to the `nth` of them, or to that one and all after it.
  act(send, request) gives the answer in the place of send(request).
  """

  path: str
  act: Callable
  nth: int = 1
  lasting: bool = False
  seen: int = 0

  def hits(self, request: httpx2.Request) -> bool:
    if request.url.path != self.path:
      return False
    self.seen += 1
    return self.seen >= self.nth if self.lasting else self.seen == self.nth


class Served:
  """A model in a directory, as JAX has it, and an engine of it. fault: is between every engine of
  it and the server.
  """

  def __init__(self, directory, settings=SETTINGS, launch=Launch()):  # noqa: B008 - a tuple
    self.directory = directory
    self.fault = None
    self.launch = launch._replace(connect=self.transport)
    self.config = checkpoint.read_config(directory)
    self.structure, _ = outline(self.config)
    self.path = directory / 'model.safetensors'
    self.digest = file_digest(self.path)
    self.params = weights_lib.load(self.path, self.config)
    self.engine = self.make_engine(settings)

  def make_engine(self, settings):
    return VllmEngine(
      settings,
      model=self.directory,
      structure=self.structure,
      config=self.config,
      eos_ids=[EOS],
      log=self.directory / 'vllm.log',
      launch=self.launch,
    )

  @contextlib.contextmanager
  def attached(self, retries=0):
    """Another engine at the same server, as at one that runs already: it gives up at the first
    fault, and the server stays. Afterwards the server has the file's weights again.
    """
    self.load()
    starts = self.engine.server.starts
    with self.make_engine(
      Vllm(
        url=self.engine.server.address,
        max_model_len=SETTINGS.max_model_len,
        request_s=SETTINGS.request_s,
        retries=retries,
      )
    ) as made:
      made.load(self.path, self.digest, self.params)
      yield made
    self.fault = None
    self.load()
    assert self.engine.server.starts == starts

  def transport(self, address):
    real = httpx2.HTTPTransport(uds=address.removeprefix('unix:'))

    class Breaking(httpx2.BaseTransport):
      def handle_request(inner, request):
        if self.fault is not None and self.fault.hits(request):
          return self.fault.act(real.handle_request, request)
        return real.handle_request(request)

      def close(inner):
        real.close()

    return Breaking()

  def load(self):
    """The weights of the file."""
    self.engine.load(self.path, self.digest, self.params)

  def requests(self, number, length=40, seed=0):
    rng = np.random.default_rng(seed)
    return [
      Request(tuple(map(int, rng.integers(3, self.config.vocab_size, length))), i)
      for i in range(number)
    ]

  def logprobs(self, params, requests, completions):
    """Of each token of each completion, by JAX."""
    rows = np.zeros(
      (
        len(requests),
        max(len(r.prompt) + len(c.tokens) for r, c in zip(requests, completions, strict=True)),
      ),
      np.int32,
    )
    for row, request, found in zip(rows, requests, completions, strict=True):
      row[: len(request.prompt) + len(found.tokens)] = request.prompt + found.tokens
    said = np.asarray(
      jax.jit(
        lambda p, t: jax.nn.log_softmax(self.structure.bind(p)(t, np.ones(t.shape, np.int32)))
      )(params, rows)
    )
    return [
      [float(said[i, len(r.prompt) - 1 + k, token]) for k, token in enumerate(c.tokens)]
      for i, (r, c) in enumerate(zip(requests, completions, strict=True))
    ]

  def some(self, engine, number=4):
    """Greedy completions of a few prompts."""
    return [
      c.tokens
      for c in engine.generate(self.requests(number), Sampling(temperature=0.0, max_new_tokens=8))
    ]


def other(params, seed, scale=0.02):
  """Weights a training step away."""
  rng = np.random.default_rng(seed)
  return {
    name: value + scale * np.std(value) * rng.standard_normal(value.shape, np.float32)
    for name, value in params.items()
  }


def processes(ancestor):
  """pid -> command line of everything below a process, itself left out."""
  parents = {}
  for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
    with contextlib.suppress(OSError):
      parents[int(path.parent.name)] = int(path.read_bytes().rpartition(b')')[2].split()[1])
  below = {ancestor}
  while found := {pid for pid, parent in parents.items() if parent in below} - below:
    below |= found
  found = {}
  for pid in below - {ancestor}:
    with contextlib.suppress(OSError):
      found[pid] = (
        pathlib.Path(f'/proc/{pid}/cmdline')
        .read_bytes()
        .replace(b'\0', b' ')
        .decode(errors='replace')
      )
  return found


def gone(pids, seconds=15.0):
  """Asserts that these processes end."""
  until = time.monotonic() + seconds
  while alive := [pid for pid in pids if runs(pid)]:
    assert time.monotonic() < until, alive
    time.sleep(0.1)


def runs(pid):
  try:
    return b') Z ' not in pathlib.Path(f'/proc/{pid}/stat').read_bytes()
  except OSError:
    return False
