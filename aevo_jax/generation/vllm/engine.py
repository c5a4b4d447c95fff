"""The engine that generates at a vLLM server, with the interface of the in-process one."""

import concurrent.futures
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
from absl import logging

from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.config.inference import Vllm
from aevo_jax.generation.engine import Timings
from aevo_jax.generation.protocol import (
  Completion,
  Continuation,
  InferenceError,
  Request,
  Sampling,
  Scored,
)
from aevo_jax.generation.vllm import sync as sync_lib
from aevo_jax.generation.vllm.client import Client, Source
from aevo_jax.generation.vllm.server import Server, interpreter
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import Params, Structure


class VllmEngine:
  """Generates at a server that was shown to have the weights.

  A fault (`client.InferenceError`) ends the server, if it is ours, begins it again, gives it the
  weights again and asks again for what is missing, settings.retries times; each completion depends
  on its request's prompt, seed and weights alone. It is raised when that is used up, and nothing is
  generated until the next `update` or `load` has gone well.

  Args:
    model: directory of the checkpoint that a server of ours starts with: config.json, tokenizer,
      and weights unless settings.carrier takes whole ones; or what makes one in an empty directory.
      structure, config: of the model. eos_ids: a completion ends with any of them.
    log: of a server of ours. prepare: parameters as they are trained -> those of the structure,
      adapters merged. transport: for tests: makes what takes the place of the connection to an
      address.

  Raises:
    NoVllmError: there is no vLLM to start. InferenceError: the carrier needs a GPU, and there is
      none. ValueError: it cannot bring such weights.
  """

  def __init__(
    self,
    settings: Vllm,
    *,
    model: pathlib.Path | Callable[[pathlib.Path], None],
    structure: Structure,
    config: ModelConfig,
    eos_ids: Sequence[int],
    log: pathlib.Path,
    prepare: Callable[[Params], Params] = lambda params: params,
    transport: Callable[[str], httpx2.BaseTransport] | None = None,
  ):
    self._settings, self._eos, self._transport, self._config = (
      settings,
      tuple(eos_ids),
      transport,
      config,
    )
    if not settings.url:
      interpreter(settings)  # a missing vLLM is told now
    if settings.carrier == 'reload' and config.tie_word_embeddings:
      raise ValueError(
        "vLLM 0.32 reloads no head that is tied to the embedding; bind vllm.carrier = 'file'"
      )
    self._model, self._log, self._prepare = model, log, prepare
    self.server: Server | None = None
    self._scratch: pathlib.Path | None = None
    self._client: Client | None = None
    self._carrier = sync_lib.CARRIERS[settings.carrier](settings, log)
    self._probe = sync_lib.Probe(
      structure,
      config.vocab_size,
      eos_ids=eos_ids,
      gap=settings.gap,
      max_model_len=settings.max_model_len,
    )
    self._weights: sync_lib.Weights | None = None
    self._source: Source | None = None
    self.version = -1
    self.timings, self.gap, self.faults = Timings(), 0.0, []
    self._carrier.ready()

  def __enter__(self) -> 'VllmEngine':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    """Ends the server, if it is ours."""
    self._disconnect()
    if (
      self._scratch is not None
    ):  # first: should whoever waits for this lose patience, no weights stay in memory
      shutil.rmtree(self._scratch, ignore_errors=True)
      self._scratch = None
    self._carrier.close()
    if self.server is not None:
      self.server.stop()

  @property
  def digest(self) -> str:
    """Of the weights that it generates with; '' before the first."""
    return self._source.digest if self._source else ''

  def update(self, params: Params, version: int) -> None:
    """Generate with these from now on: writes them to a file, in memory where the machine has such
    a file system, and has the server load it.

    Raises:
      InferenceError: the server could not be shown to have them. ValueError: carrier 'lora', which
        takes the directory of an adapter (`load`).
    """
    if self._settings.carrier == 'lora':
      raise ValueError(
        "vllm.carrier = 'lora' loads adapters from their directories; bind vllm.carrier "
        "= 'file' to hand over weights as they are trained"
      )
    path, params = self._directory() / checkpoint.WEIGHTS, self._prepare(params)
    checkpoint.save_weights(path, params, self._config)
    self.load(path, file_digest(path), params, version)

  def load(self, path: pathlib.Path, digest: str, params: Params, version: int = 0) -> None:
    """Generate with the weights of this file from now on. digest: SHA-256 that it must have.
    params: what JAX reads from it.

    Raises:
      InferenceError: the server could not be shown to have them.
    """
    self._weights, self._source, self.version = (
      sync_lib.Weights(path, digest, params, version),
      None,
      version,
    )
    self._trying(self._sync)

  def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
    """A completion of each request, in their order.

    Raises:
      InferenceError: the server failed, again and again. RuntimeError: no weights were given yet.
        ValueError: an empty prompt, one that is too long, or a filter.
    """
    if self._weights is None:
      raise RuntimeError('the engine has no weights; call update(params, version) first')
    if sampling.filters:
      raise ValueError(
        'vLLM gives log-probabilities after top_k, top_p and min_p, where ours are '
        "before; leave these out, or bind rollout.engine = 'jax'"
      )
    for i, request in enumerate(requests):
      if not 1 <= len(request.prompt) <= self._settings.max_model_len - sampling.max_new_tokens:
        raise ValueError(
          f'prompt {i} has {len(request.prompt)} tokens and asks for '
          f'{sampling.max_new_tokens} more; vllm.max_model_len is '
          f'{self._settings.max_model_len}'
        )
    done: dict[int, Completion] = {}
    started = time.perf_counter()
    self._trying(
      lambda: self._ask(
        len(requests),
        lambda client, source, i: client.complete(
          requests[i], sampling, source, eos_ids=self._eos, salt=source.digest
        ),
        done,
      )
    )
    found = [done[i] for i in range(len(requests))]
    self.timings = Timings(
      decode_s=time.perf_counter() - started,
      prompt_tokens=sum(len(r.prompt) for r in requests),
      new_tokens=sum(len(c.tokens) for c in found),
      dispatches=len(requests),
    )
    return found

  def score(self, continuations: Sequence[Continuation]) -> list[Scored]:
    """Log-probabilities of each continuation's tokens, in their order. The server generates one
    token after each, which must fit too.

    Raises:
      InferenceError: the server failed, again and again. RuntimeError: no weights were given yet.
        ValueError: nothing given, nothing before it, or too much of both.
    """
    if self._weights is None:
      raise RuntimeError('the engine has no weights; call update(params, version) first')
    for i, (context, tokens) in enumerate(continuations):
      if not context or not tokens or len(context) + len(tokens) >= self._settings.max_model_len:
        raise ValueError(
          f'continuation {i} has {len(tokens)} tokens after {len(context)}; both need '
          'one, and together fewer than vllm.max_model_len = '
          f'{self._settings.max_model_len}'
        )
    done: dict[int, Scored] = {}
    self._trying(
      lambda: self._ask(
        len(continuations),
        lambda client, source, i: client.score(continuations[i], source, salt=source.digest),
        done,
      )
    )
    return [done[i] for i in range(len(continuations))]

  def vllm_version(self) -> str:
    """The version that the server says it is; it must have been given weights."""
    return self._client.vllm_version()

  def _ask(
    self, number: int, ask: Callable[[Client, Source, int], Any], done: dict[int, Any]
  ) -> None:
    """Asks for those of `number` answers that are missing in `done`."""
    if self._source is None:
      self._sync()
    client, source = self._client, self._source
    pool = concurrent.futures.ThreadPoolExecutor(self._settings.concurrency)
    try:
      asked = {pool.submit(ask, client, source, i): i for i in range(number) if i not in done}
      for future in concurrent.futures.as_completed(asked):
        done[asked[future]] = future.result()
    finally:
      pool.shutdown(
        wait=False, cancel_futures=True
      )  # after a fault nothing waits for what is under way: a server that hangs would keep it

  def _directory(self) -> pathlib.Path:
    """For files of this engine, in memory where the machine has such a file system."""
    if self._scratch is None:
      memory = pathlib.Path('/dev/shm')
      self._scratch = pathlib.Path(
        tempfile.mkdtemp(prefix='aevo_vllm_', dir=memory if memory.is_dir() else None)
      )
    return self._scratch

  def _start(self) -> None:
    if self.server is None:
      model = self._model
      if not isinstance(model, pathlib.Path):
        model = self._directory() / 'model'
        model.mkdir()
        self._model(model)
      self.server = Server(
        self._settings, model, self._config, self._log, scratch=self._directory()
      )
    self.server.start()

  def _sync(self) -> None:
    if not self._settings.url:
      self._start()
    if self._client is None:
      address = self._settings.url or self.server.address
      self._client = Client(
        address,
        timeout=self._settings.request_s,
        concurrency=self._settings.concurrency,
        transport=self._transport and self._transport(address),
      )
    self._source, self.gap = sync_lib.sync(self._client, self._carrier, self._weights, self._probe)

  def _trying(self, act: Callable[[], None]) -> None:
    """Does it, after faults with a new server."""
    for left in reversed(range(self._settings.retries + 1)):
      try:
        return act()
      except InferenceError as error:
        self.faults.append(f'{type(error).__name__}: {error}')
        logging.warning(
          'vLLM: %s; %s',
          self.faults[-1],
          f'asked again, {left} times more at most' if left else 'given up',
        )
        self._source = None
        self._disconnect()
        self._carrier.close()
        if self.server is not None:
          self.server.stop()
        self._carrier = sync_lib.CARRIERS[self._settings.carrier](self._settings, self._log)
        if not left:
          raise

  def _disconnect(self) -> None:
    if self._client is not None:
      self._client.close()
      self._client = None
