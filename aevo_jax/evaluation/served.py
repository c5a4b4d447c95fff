"""Answers from a vLLM server, in the place of the sampler in this process."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence

import tokenizers

from aevo_jax.config.constitution import Constitution
from aevo_jax.data.chat_template import ChatFormat
from aevo_jax.evaluation.servers.protocol import RequestError, UnavailableError
from aevo_jax.generation.protocol import InferenceError, Request, Sampling
from aevo_jax.generation.vllm.engine import VllmEngine
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import Params, Structure


@contextlib.contextmanager
def _infrastructure():
  try:
    yield
  except InferenceError as error:
    raise UnavailableError(str(error)) from error


class ServedSampler:
  """Called as `generation.sampler.Sampler` is, after `load` of the same parameters."""

  def __init__(self, engine: VllmEngine, *, max_new_tokens: int):
    self._engine, self._max_new_tokens = engine, max_new_tokens
    self._params: Params | None = None

  def load(self, path: pathlib.Path, digest: str, params: Params) -> None:
    """Answer with the weights of this file; `params` are what was read from it.

    Raises:
      UnavailableError: the server could not be shown to have them.
    """
    self._params = None
    with _infrastructure():
      self._engine.load(path, digest, params)
    self._params = params

  def update(self, params: Params, version: int) -> None:
    """Answer with these, of which there is no file: one is written.

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
    """Token ids of each prompt's completion, without the end token: greedy, or sampled with a seed
    for each prompt.

    Raises:
      UnavailableError: the server failed, again and again. RequestError: these are not the weights
        that were loaded last.
    """
    if params is not self._params:
      raise RequestError('the server was given other weights than those that are to answer')
    requests = [
      Request(tuple(prompt), seed)
      for prompt, seed in zip(prompts, seeds or [0] * len(prompts), strict=True)
    ]
    with _infrastructure():
      found = self._engine.generate(
        requests,
        Sampling(
          temperature=0.0 if seeds is None else temperature, max_new_tokens=self._max_new_tokens
        ),
      )
    return [list(c.tokens[:-1] if c.finish == 'end' else c.tokens) for c in found]


def sampler(
  constitution: Constitution,
  base: pathlib.Path,
  structure: Structure,
  config: ModelConfig,
  tokenizer: tokenizers.Tokenizer,
  chat: ChatFormat,
  log: pathlib.Path,
  *,
  threads: int,
  url: str,
) -> ServedSampler:
  """What answers under a constitution with evaluation.engine = 'vllm'. log: of its server. threads:
  of one on a CPU, unless the constitution says. url: of one that runs, '' to start one.
  """
  settings = dataclasses.replace(
    constitution.vllm,
    url=url,
    **({} if url or constitution.vllm.cpu_threads else {'cpu_threads': threads}),
  )
  engine = VllmEngine(
    settings,
    model=base,
    structure=structure,
    config=config,
    eos_ids=[tokenizer.token_to_id(chat.eos)],
    log=log,
  )
  return ServedSampler(engine, max_new_tokens=constitution.objective.max_new_tokens)
