"""A vLLM server that answers for a stored model: how it is started, loaded and logged."""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from aevo_jax.config.inference import WHOLE_TRANSPORTS, Vllm
from aevo_jax.evaluation.model_files import ADAPTER, StoredModelError
from aevo_jax.evaluation.stored_model import StoredModel


def engine(settings: Vllm, base: pathlib.Path, model: StoredModel, log: pathlib.Path):
  """Makes a vLLM engine without weights.

  Args:
    settings: gin's section `vllm`.
    base: directory with config.json and tokenizer.
    model: the model.
    log: file of the server's output.

  Returns:
    `generation.vllm.engine.VllmEngine`.
  """
  from aevo_jax.generation.vllm.engine import VllmEngine  # noqa: PLC0415  httpx2 is an extra

  end_ids = [model.tokenizer.token_to_id(model.chat.eos), *model.chat.stops]
  return VllmEngine(
    settings, model=base, structure=model.structure, config=model.config, eos_ids=end_ids, log=log
  )


def refuse_transport(settings: Vllm, weights: pathlib.Path) -> None:
  """Raises StoredModelError if vllm.carrier cannot bring these weights to a server."""
  if settings.carrier == 'lora' and weights.name != ADAPTER:
    raise StoredModelError(
      "vllm.carrier = 'lora' loads an adapter on the base that the server began with, "
      f"and {weights} is none; give the adapter's directory, or leave vllm.carrier out"
    )
  if settings.carrier not in (*WHOLE_TRANSPORTS, 'lora'):
    raise StoredModelError(
      f"vllm.carrier = {settings.carrier!r} does not carry a checkpoint's weights; bind "
      f"one of {', '.join(WHOLE_TRANSPORTS)}, or 'lora' for an adapter"
    )


def load_weights(sampler, settings: Vllm, weights: pathlib.Path, model: StoredModel) -> None:
  """Has a server load the weights.

  Args:
    sampler: a `ServedSampler` or a `VllmEngine`.
    settings: gin's section `vllm`.
    weights: a safetensors file is loaded as it lies there; a directory, and an adapter that is not
      hot-loaded, are written for the server.
    model: the model.
  """
  merged = weights.name == ADAPTER and settings.carrier != 'lora'
  if weights.is_dir() or merged:
    sampler.update(model.params, 0)
  else:
    sampler.load(weights, model.digest['file_digest'], model.params)


@contextlib.contextmanager
def server_log(*failures: type[Exception]) -> Iterator[pathlib.Path]:
  """Yields a file for a server's output, which is kept if the server fails.

  Args:
    *failures: exceptions of a server that failed.

  Yields:
    The log's path.

  Raises:
    StoredModelError: in place of `failures` and of ValueError; it names the kept log and its end.
  """
  directory = pathlib.Path(tempfile.mkdtemp(prefix='aevo_evaluate_'))
  log = directory / 'vllm.log'
  keep = False
  try:
    yield log
  except failures as error:
    keep = log.exists()
    raise StoredModelError(f'{error}{_end_of_log(log, str(error))}') from error
  except ModuleNotFoundError as error:
    if error.name != 'httpx2':
      raise
    raise StoredModelError(
      'a vLLM server is asked with httpx2, which is not installed; install the extra '
      "'vllm' of aevo-jax"
    ) from error
  except ValueError as error:
    raise StoredModelError(str(error)) from error
  finally:
    if not keep:
      shutil.rmtree(directory, ignore_errors=True)


def _end_of_log(log: pathlib.Path, message: str) -> str:
  """Says where a log is kept, and how it ends unless the message names the log already."""
  if not log.exists():
    return ''
  kept = f"; the server's log is kept at {log}"
  if str(log) in message:
    return kept
  end = ' | '.join(log.read_text(errors='replace').splitlines()[-3:])
  return f'{kept}, which ends: {end}'
