"""Answers from a vLLM server, in the place of the sampler in this process."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

from aevo_jax.config.constitution import Constitution
from aevo_jax.evaluation.base_model import BaseModel
from aevo_jax.evaluation.servers.protocol import RequestError, UnavailableError
from aevo_jax.generation.protocol import Completion, InferenceError, Request, Sampling
from aevo_jax.generation.vllm.engine import VllmEngine
from aevo_jax.models.params import Params


@contextlib.contextmanager
def _infrastructure() -> Iterator[None]:
  try:
    yield
  except InferenceError as error:
    raise UnavailableError(str(error)) from error


class ServedSampler:
  """Called as `generation.sampler.Sampler` is, after `load` of the same parameters."""

  def __init__(self, engine: VllmEngine, *, max_new_tokens: int):
    self._engine = engine
    self._max_new_tokens = max_new_tokens
    self._params: Params | None = None

  def load(self, path: pathlib.Path, digest: str, params: Params) -> None:
    """Lets the server answer with the weights of a file.

    Args:
      path: the file.
      digest: its SHA-256 digest.
      params: what was read from it.

    Raises:
      UnavailableError: the server could not be shown to have them.
    """
    self._params = None
    with _infrastructure():
      self._engine.load(path, digest, params)
    self._params = params

  def update(self, params: Params, version: int) -> None:
    """Lets the server answer with weights that have no file yet: one is written.

    Args:
      params: the weights.
      version: their number, which rises.

    Raises:
      UnavailableError: as `load`.
    """
    self._params = None
    with _infrastructure():
      self._engine.update(params, version)
    self._params = params

  @property
  def digest(self) -> str:
    """SHA-256 of the file that the server loaded; '' before the first."""
    return self._engine.digest

  def close(self) -> None:
    """Ends the server, if it is ours."""
    self._engine.close()

  def __call__(
    self,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    seeds: Sequence[int] | None = None,
    temperature: float = 1.0,
  ) -> list[list[int]]:
    """Completes prompts, greedily or sampled with a seed for each.

    Args:
      params: the weights that were loaded last.
      prompts: token ids.
      seeds: one a prompt, None for greedy completions.
      temperature: of sampled completions.

    Returns:
      Token ids of each prompt's completion, without the end token.

    Raises:
      UnavailableError: the server failed, again and again.
      RequestError: these are not the weights that were loaded last.
    """
    if params is not self._params:
      raise RequestError('the server was given other weights than those that are to answer')
    if seeds is None:
      temperature = 0.0
    requests = []
    for prompt, seed in zip(prompts, seeds or [0] * len(prompts), strict=True):
      requests.append(Request(tuple(prompt), seed))
    sampling = Sampling(temperature=temperature, max_new_tokens=self._max_new_tokens)
    with _infrastructure():
      completions = self._engine.generate(requests, sampling)
    return [_without_end(completion) for completion in completions]


def _without_end(completion: Completion) -> list[int]:
  if completion.finish == 'end':
    return list(completion.tokens[:-1])
  return list(completion.tokens)


def sampler(
  constitution: Constitution, base: BaseModel, *, log: pathlib.Path, threads: int, url: str
) -> ServedSampler:
  """Creates what answers under a constitution with evaluation.engine = 'vllm'.

  Args:
    constitution: gives the server's settings.
    base: the model that the server starts with.
    log: of a server that is started.
    threads: of a server on a CPU, unless the constitution says.
    url: of a server that runs, '' to start one.

  Returns:
    The sampler, without weights.
  """
  settings = dataclasses.replace(constitution.vllm, url=url)
  if not url and not settings.cpu_threads:
    settings = dataclasses.replace(settings, cpu_threads=threads)
  engine = VllmEngine(
    settings,
    model=base.directory,
    structure=base.structure,
    config=base.config,
    eos_ids=[base.tokenizer.token_to_id(base.chat.eos)],
    log=log,
  )
  return ServedSampler(engine, max_new_tokens=constitution.objective.max_new_tokens)
