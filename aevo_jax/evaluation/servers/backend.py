"""What evaluator and arbiter score with: sealed weights, and one sampler for the base's model.

Importing it starts JAX, so a server does so once its threads are pinned.
"""

import pathlib
from collections.abc import Sequence

from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.config.constitution import Constitution
from aevo_jax.evaluation import base_model
from aevo_jax.evaluation.scoring import Scorer
from aevo_jax.evaluation.servers.protocol import RequestError
from aevo_jax.models import weights as weights_lib
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import Params
from aevo_jax.tasks.item import Item


def load_sealed(path: pathlib.Path, digest: str, config: ModelConfig) -> Params:
  """Loads the weights of a sealed file.

  Args:
    path: the file.
    digest: its SHA-256 digest when it was sealed.
    config: of the base's model.

  Returns:
    The weights.

  Raises:
    RequestError: the file is not the one that was sealed.
    ValueError: it does not hold this model.
  """
  if file_digest(path) != digest:
    raise RequestError(f'{path} is not the file that was sealed ({digest})')
  return weights_lib.load(path, config)


class Backend:
  """Scores sealed weights under one constitution.

  Args:
    constitution: names engine, verifier and length of completions.
    base: directory with config.json and the tokenizer.
    log: of an inference server that is started.
    threads: of such a server on a CPU.
    url: of an inference server that runs, '' to start one.
  """

  def __init__(
    self,
    constitution: Constitution,
    base: pathlib.Path,
    *,
    log: pathlib.Path,
    threads: int,
    url: str,
  ):
    self._constitution = constitution
    self._base = base_model.read(base)
    self._served = None
    if constitution.evaluation.engine == 'vllm':
      from aevo_jax.evaluation import served  # noqa: PLC0415 - needs the extra 'vllm'

      self._served = served.sampler(constitution, self._base, log=log, threads=threads, url=url)

  def load(self, path: pathlib.Path, digest: str) -> Params:
    """Loads the weights that are scored next; see `load_sealed`.

    Args:
      path: the sealed file.
      digest: its SHA-256 digest.

    Returns:
      The weights, which an inference server also has then.
    """
    params = load_sealed(path, digest, self._base.config)
    if self._served is not None:
      self._served.load(path, digest, params)
    return params

  def check(self, request: dict) -> dict:
    """Loads weights: an inference server is shown to have them and to answer.

    Args:
      request: 'weights' and 'file_digest'.

    Returns:
      Nothing. Raises UnavailableError where the server does not work.
    """
    self.load(pathlib.Path(request['weights']), request['file_digest'])
    return {}

  def scorer(self, items: Sequence[Item]) -> Scorer:
    """Creates a scorer, which compiles a sampler for the items.

    Args:
      items: a set of the constitution.

    Returns:
      The scorer, judging by the constitution's verifier.
    """
    objective = self._constitution.objective
    return Scorer(
      self._base.structure,
      self._base.tokenizer,
      items,
      max_new_tokens=objective.max_new_tokens,
      chat=self._base.chat,
      verifier=objective.verifier,
      sampler=self._served,
    )

  def close(self) -> None:
    """Ends an inference server that was started."""
    if self._served is not None:
      self._served.close()
