"""The evaluator process: scores sealed weights on the dev set, from the weights alone.

  python -m aevo_jax.evaluation.evaluator --base=DIR --constitution=FILE --threads=1 --cache=DIR

Request {"op": "score", "weights": PATH, "file_digest": SHA256, "out": PATH}: item results are written to `out`, and the reply is their summary.
It reads nothing a worker wrote but the safetensors file, whose digest must be the sealed one.
"""

import argparse
import functools
import json
import os
import pathlib

from aevo_jax.evaluation import server


def load_sealed(path: pathlib.Path, file_digest: str, config):
  """Weights of a sealed file.

  Raises:
    RequestError: the file is not the one that was sealed. ValueError: it does not hold this model.
  """
  from aevo_jax.checkpoint.digest import file_digest as digest_of
  from aevo_jax.models import hf_checkpoint
  if digest_of(path) != file_digest:
    raise server.RequestError(f'{path} is not the file that was sealed ({file_digest})')
  return hf_checkpoint.load_weights(path, config)


def write_scores(path: pathlib.Path, results, summary: dict, *, file_digest: str) -> None:
  """Summary, item-level results and the digest of the scored file; written aside, then renamed."""
  from aevo_jax.evaluation.scoring import to_rows
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  temporary.write_text(json.dumps({'summary': summary, 'file_digest': file_digest, 'items': to_rows(results)}))
  temporary.rename(path)


def parse_arguments(description: str) -> argparse.ArgumentParser:
  """Arguments that evaluator and arbiter share."""
  parser = argparse.ArgumentParser(description=description)
  parser.add_argument('--base', required=True, type=pathlib.Path, help='directory with config.json and tokenizer.json')
  parser.add_argument('--constitution', required=True, type=pathlib.Path)
  parser.add_argument('--threads', type=int, default=1)
  parser.add_argument('--cache', default='')
  return parser


def main() -> None:
  arguments = parse_arguments('dev scores of sealed weights').parse_args()
  server.start(arguments.threads, arguments.cache)
  from aevo_jax.config import constitution as constitution_lib
  from aevo_jax.data import chat_template
  from aevo_jax.data import tokenizer as tokenizers
  from aevo_jax.evaluation import scoring, sets
  from aevo_jax.models import hf_checkpoint
  from aevo_jax.models.params import outline

  constitution = constitution_lib.read(arguments.constitution)
  config = hf_checkpoint.read_config(arguments.base)
  structure, _ = outline(config)

  @functools.cache
  def scorer():
    own = sets.own_tasks(constitution, arguments.constitution.with_name(sets.TASKS))
    return scoring.Scorer(structure, tokenizers.load(str(arguments.base)), sets.dev_items(constitution, own), max_new_tokens=constitution.objective.max_new_tokens,
                          chat=chat_template.read(str(arguments.base)), verifier=constitution.objective.verifier)

  def score(request: dict) -> dict:
    results = scorer()(load_sealed(pathlib.Path(request['weights']), request['file_digest'], config))
    summary = scoring.summary(results, constitution.objective.verifier)
    write_scores(pathlib.Path(request['out']), results, summary, file_digest=request['file_digest'])
    return {'summary': summary}

  server.serve({'score': score})


if __name__ == '__main__':
  main()
