"""The engine that generates at a vLLM server, with the interface of the in-process one."""

import concurrent.futures
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
from aevo_jax.generation.vllm.server import Launch, Server, interpreter
from aevo_jax.generation.vllm.transports import TRANSPORTS, Transport, Weights
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import Params, Structure

NO_WEIGHTS = 'the engine has no weights; call update(params, version) first'


class _Connection(NamedTuple):
  """A client of a server, and whose completions it may request of it."""

  client: Client
  source: Source


def _check(settings: Vllm, config: ModelConfig) -> None:
  if not settings.url:
    interpreter(settings)  # a missing vLLM is reported now
  if settings.carrier == 'reload' and config.tie_word_embeddings:
    raise ValueError(
      "vLLM 0.32 reloads no head that is tied to the embedding; bind vllm.carrier = 'file'"
    )


class VllmEngine:
  """Generates at a server that was shown to have the weights.

  A fault (`protocol.InferenceError`) ends the server, if it is ours, begins it again, gives it the
  weights again and requests again what is missing, settings.retries times; each completion depends
  on its request's prompt, seed and weights alone. The fault is raised when that is used up, and
  nothing is generated until the next `update` or `load` has gone well.
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
    launch: Launch = Launch(),  # noqa: B008 - an immutable tuple
  ):
    """Makes an engine; a server of ours starts with the first weights.

    Args:
      settings: server, transport, retries and gap.
      model: directory of the checkpoint that a server of ours starts with: config.json, tokenizer,
        and weights unless settings.carrier takes whole ones; or a function that writes one into an
        empty directory.
      structure: of the model.
      config: of the model.
      eos_ids: a completion ends with any of them.
      log: of a server of ours.
      prepare: parameters as they are trained -> those of the structure, adapters merged.
      launch: how processes are started and spoken to.

    Raises:
      NoVllmError: there is no vLLM to start.
      InferenceError: the transport needs a GPU, and there is none.
      ValueError: the transport cannot bring such weights.
    """
    _check(settings, config)
    self._settings = settings
    self._eos_ids = tuple(eos_ids)
    self._config = config
    self._model = model
    self._log = log
    self._prepare = prepare
    self._launch = launch
    self.server: Server | None = None
    self._scratch: pathlib.Path | None = None
    self._client: Client | None = None
    self.transport = self._make_transport()
    self._probe = sync_lib.Probe(
      structure,
      config.vocab_size,
      eos_ids=eos_ids,
      gap=settings.probe_gap,
      max_model_len=settings.max_model_len,
    )
    self._weights: Weights | None = None
    self._source: Source | None = None
    self.version = -1
    self.timings = Timings()
    self.gap = 0.0
    self.faults: list[str] = []
    self.transport.ready()

  def __enter__(self) -> 'VllmEngine':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Ends the server, if it is ours."""
    self._disconnect()
    # First: should the caller lose patience meanwhile, no weights stay in memory.
    if self._scratch is not None:
      shutil.rmtree(self._scratch, ignore_errors=True)
      self._scratch = None
    self.transport.close()
    if self.server is not None:
      self.server.stop()

  @property
  def settings(self) -> Vllm:
    """Server, transport, retries and gap."""
    return self._settings

  @property
  def digest(self) -> str:
    """Of the weights that the server was shown to have; '' if of none."""
    return '' if self._source is None else self._source.digest

  def update(self, params: Params, version: int) -> None:
    """Takes weights, which all later completions are made with.

    They are written to a file, in memory where the machine has such a file system, and the server
    loads it.

    Args:
      params: as they are trained.
      version: the caller's number for them.

    Raises:
      InferenceError: the server could not be shown to have them.
      ValueError: transport 'lora', which takes the directory of an adapter (`load`).
    """
    if self._settings.carrier == 'lora':
      raise ValueError(
        "vllm.carrier = 'lora' loads adapters from their directories; bind vllm.carrier "
        "= 'file' to hand over weights as they are trained"
      )
    path = self._directory() / checkpoint.WEIGHTS
    prepared = self._prepare(params)
    checkpoint.save_weights(path, prepared, self._config)
    self.load(path, file_digest(path), prepared, version)

  def load(self, path: pathlib.Path, digest: str, params: Params, version: int = 0) -> None:
    """Takes the weights of a file, which all later completions are made with.

    Args:
      path: of a safetensors file.
      digest: SHA-256 that it must have.
      params: what JAX reads from it.
      version: the caller's number for them.

    Raises:
      InferenceError: the server could not be shown to have them.
    """
    self._weights = Weights(path, digest, params, version)
    self._source = None
    self.version = version
    self._retrying(self._connect)

  def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
    """Generates a completion of each request.

    Args:
      requests: prompts with their seeds.
      sampling: the same for all of them, without filters.

    Returns:
      The completions, in the requests' order.

    Raises:
      InferenceError: the server failed, again and again.
      RuntimeError: no weights were given yet.
      ValueError: an empty prompt, one that is too long, or a filter.
    """
    if self._weights is None:
      raise RuntimeError(NO_WEIGHTS)
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

    def complete(connection: _Connection, i: int) -> Completion:
      client, source = connection
      return client.complete(
        requests[i], sampling, source, eos_ids=self._eos_ids, salt=source.digest
      )

    started = time.perf_counter()
    completions = self._all(len(requests), complete)
    self.timings = Timings(
      decode_s=time.perf_counter() - started,
      prompt_tokens=sum([len(request.prompt) for request in requests]),
      new_tokens=sum([len(completion.tokens) for completion in completions]),
      dispatches=len(requests),
    )
    return completions

  def score(self, continuations: Sequence[Continuation]) -> list[Scored]:
    """Computes log-probabilities of each continuation's tokens.

    Args:
      continuations: the server generates one token after each, which must fit too.

    Returns:
      The scores, in the continuations' order.

    Raises:
      InferenceError: the server failed, again and again.
      RuntimeError: no weights were given yet.
      ValueError: nothing given, nothing before it, or too much of both.
    """
    if self._weights is None:
      raise RuntimeError(NO_WEIGHTS)
    for i, (context, tokens) in enumerate(continuations):
      if not context or not tokens or len(context) + len(tokens) >= self._settings.max_model_len:
        raise ValueError(
          f'continuation {i} has {len(tokens)} tokens after {len(context)}; both need '
          'one, and together fewer than vllm.max_model_len = '
          f'{self._settings.max_model_len}'
        )

    def score(connection: _Connection, i: int) -> Scored:
      client, source = connection
      return client.score(continuations[i], source, salt=source.digest)

    return self._all(len(continuations), score)

  def vllm_version(self) -> str:
    """Reads the version of vLLM that the server reports.

    Returns:
      Such as '0.32.0'.

    Raises:
      RuntimeError: the server was given no weights yet.
    """
    if self._client is None:
      raise RuntimeError(NO_WEIGHTS)
    return self._client.vllm_version()

  def _all(self, number: int, request: Callable[[_Connection, int], Any]) -> list[Any]:
    """Makes `number` requests; after a fault again those that have no answer."""
    answers: dict[int, Any] = {}
    self._retrying(lambda: self._request_missing(number, request, answers))
    return [answers[i] for i in range(number)]

  def _request_missing(
    self, number: int, request: Callable[[_Connection, int], Any], answers: dict[int, Any]
  ) -> None:
    connection = self._connect()
    pool = concurrent.futures.ThreadPoolExecutor(self._settings.concurrency)
    try:
      futures = {}
      for i in range(number):
        if i not in answers:
          futures[pool.submit(request, connection, i)] = i
      for future in concurrent.futures.as_completed(futures):
        answers[futures[future]] = future.result()
    finally:
      # After a fault nothing waits for what is under way: a server that hangs would keep it.
      pool.shutdown(wait=False, cancel_futures=True)

  def _directory(self) -> pathlib.Path:
    """Returns a directory of this engine, in memory where the machine has such a file system."""
    if self._scratch is None:
      memory = pathlib.Path('/dev/shm')
      parent = memory if memory.is_dir() else None
      self._scratch = pathlib.Path(tempfile.mkdtemp(prefix='aevo_vllm_', dir=parent))
    return self._scratch

  def _make_transport(self) -> Transport:
    return TRANSPORTS[self._settings.carrier](self._settings, self._log, self._launch)

  def _start(self) -> str:
    """Starts a server of ours, if there is to be one; returns the server's address."""
    if self._settings.url:
      return self._settings.url
    if self.server is None:
      model = self._model
      if not isinstance(model, pathlib.Path):
        write_model = model
        model = self._directory() / 'model'
        model.mkdir()
        write_model(model)
      self.server = Server(
        self._settings,
        model,
        self._config,
        self._log,
        scratch=self._directory(),
        launch=self._launch,
      )
    self.server.start()
    return self.server.address

  def _connect(self) -> _Connection:
    """Gives the server the weights, unless it was shown to have them."""
    if self._client is not None and self._source is not None:
      return _Connection(self._client, self._source)
    if self._weights is None:
      raise RuntimeError(NO_WEIGHTS)
    address = self._start()
    if self._client is None:
      connect = self._launch.connect
      self._client = Client(
        address,
        timeout=self._settings.request_s,
        concurrency=self._settings.concurrency,
        transport=None if connect is None else connect(address),
      )
    synced = sync_lib.sync(self._client, self.transport, self._weights, self._probe)
    self._source = synced.source
    self.gap = synced.gap
    return _Connection(self._client, synced.source)

  def _retrying(self, act: Callable[[], Any]) -> None:
    """Calls `act`, and again with a new server after faults."""
    for left in reversed(range(self._settings.retries + 1)):
      try:
        act()
        return
      except InferenceError as error:
        self.faults.append(f'{type(error).__name__}: {error}')
        outlook = f'asked again, {left} times more at most' if left else 'given up'
        logging.warning('vLLM: %s; %s', self.faults[-1], outlook)
        self.restart()
        if not left:
          raise

  def restart(self) -> None:
    """Ends the server, if it is ours; the next request starts one and gives it the weights."""
    self._source = None
    self._disconnect()
    self.transport.close()
    if self.server is not None:
      self.server.stop()
    self.transport = self._make_transport()

  def _disconnect(self) -> None:
    if self._client is not None:
      self._client.close()
      self._client = None
