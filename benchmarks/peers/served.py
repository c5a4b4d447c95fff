"""vLLM as aevo_jax uses it, a server of its own asked over HTTP with every answer checked.

For the comparisons in versus.py that say what this costs. Runs in .venv.
"""

from aevo_jax.runtime import tune_for_cpu

tune_for_cpu()  # before JAX is imported

import itertools
import pathlib
import shutil
import tempfile

import ours
import workload as w

from aevo_jax import layout
from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.config.inference import Vllm
from aevo_jax.generation.protocol import Request, Sampling
from aevo_jax.generation.vllm.engine import VllmEngine
from aevo_jax.models import weights as weights_lib
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import outline


def engine(directory: pathlib.Path) -> VllmEngine:
  for name in (
    'tokenizer.json',
    'tokenizer_config.json',
  ):  # a server begins only with some; it is spoken to in ids
    shutil.copyfile(layout.root_file('substrate') / 'base' / name, directory / name)
  config = checkpoint.read_config(directory)
  made = VllmEngine(
    Vllm(max_model_len=w.PROMPT + w.COMPLETION, max_num_seqs=w.PROMPTS * w.GROUP),
    model=directory,
    structure=outline(config)[0],
    config=config,
    eos_ids=[],
    log=pathlib.Path(tempfile.mkdtemp(prefix='aevo_versus_')) / 'vllm.log',
  )
  path = directory / checkpoint.WEIGHTS
  made.load(path, file_digest(path), weights_lib.load(path, config))
  return made


def request(made: VllmEngine):
  """One at a time, of one new token."""
  number = itertools.count()
  return lambda: {
    'requests': len(
      made.generate([Request(tuple(w.prompt(next(number))))], Sampling(max_new_tokens=1))
    )
  }


if __name__ == '__main__':
  served = []

  def make(asked: dict):
    served.append(engine(pathlib.Path(asked['model'])))
    return {'sampling': ours.draw, 'request': request}[asked['workload']](served[0])

  try:
    w.serve(make)
  finally:
    for made in served:
      made.close()
