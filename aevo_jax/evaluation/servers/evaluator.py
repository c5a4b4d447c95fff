"""The evaluator process: scores sealed weights on the dev set, from the weights alone.

  python -m aevo_jax.evaluation.servers.evaluator --base=DIR --constitution=FILE --threads=1 --cache=DIR

Request {"op": "score", "weights": PATH, "file_digest": SHA256, "out": PATH}: item results are
written to `out`, and the reply is their summary. If the constitution has probes, their answers go
to the file beside it that `probes_path` names, and their summaries into the reply. It reads nothing
a worker wrote but the safetensors file, whose digest must be the sealed one.
"""

import argparse
import functools
import json
import os
import pathlib

from aevo_jax.evaluation.servers import protocol


def load_sealed(path: pathlib.Path, file_digest: str, config):
  """Weights of a sealed file.

  Raises:
    RequestError: the file is not the one that was sealed. ValueError: it does not hold this model.
  """
  from aevo_jax.checkpoint.digest import file_digest as digest_of
  from aevo_jax.models import weights as weights_lib

  if digest_of(path) != file_digest:
    raise protocol.RequestError(f'{path} is not the file that was sealed ({file_digest})')
  return weights_lib.load(path, config)


def write_scores(path: pathlib.Path, results, summary: dict, *, file_digest: str) -> None:
  """Summary, item-level results and the digest of the scored file; written aside, then renamed."""
  from aevo_jax.evaluation.scoring import to_rows

  _write(path, {'summary': summary, 'file_digest': file_digest, 'items': to_rows(results)})


def probes_path(path: pathlib.Path) -> pathlib.Path:
  """Where the probes' answers of a candidate lie whose dev scores lie at `path`."""
  return path.with_name(f'{path.name.split(".")[0]}.probes.json')


def _write(path: pathlib.Path, content: dict) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  temporary.write_text(json.dumps(content))
  temporary.rename(path)


def parse_arguments(description: str) -> argparse.ArgumentParser:
  """Arguments that evaluator and arbiter share."""
  parser = argparse.ArgumentParser(description=description)
  parser.add_argument(
    '--base', required=True, type=pathlib.Path, help='directory with config.json and tokenizer.json'
  )
  parser.add_argument('--constitution', required=True, type=pathlib.Path)
  parser.add_argument('--threads', type=int, default=1)
  parser.add_argument('--cache', default='')
  return parser


def main() -> None:
  arguments = parse_arguments('dev scores of sealed weights').parse_args()
  protocol.start(arguments.threads, arguments.cache)
  from aevo_jax.config import constitution as constitution_lib
  from aevo_jax.data import chat_template
  from aevo_jax.data import tokenizer as tokenizers
  from aevo_jax.evaluation import probes, scoring, sets
  from aevo_jax.models.hf import checkpoint
  from aevo_jax.models.params import outline

  constitution = constitution_lib.read(arguments.constitution)
  config = checkpoint.read_config(arguments.base)
  structure, _ = outline(config)
  tokenizer, chat = tokenizers.load(str(arguments.base)), chat_template.read(str(arguments.base))
  answers_by = None
  if constitution.evaluation.engine == 'vllm':
    from aevo_jax.evaluation import served

    answers_by = served.sampler(
      constitution,
      arguments.base,
      structure,
      config,
      tokenizer,
      chat,
      arguments.constitution.parent / 'logs' / 'vllm_evaluator.log',
      threads=arguments.threads,
      url=constitution.vllm.url,
    )
  own = functools.cache(
    lambda: sets.own_tasks(constitution, arguments.constitution.with_name(sets.TASKS))
  )
  probed = functools.cache(lambda: probes.build(constitution, own()))

  @functools.cache
  def scorer(probe: str = ''):
    items = probed()[probe].items if probe else sets.dev_items(constitution, own())
    return scoring.Scorer(
      structure,
      tokenizer,
      items,
      max_new_tokens=constitution.objective.max_new_tokens,
      chat=chat,
      verifier=constitution.objective.verifier,
      sampler=answers_by,
    )

  def score(request: dict) -> dict:
    params, out = (
      load_sealed(pathlib.Path(request['weights']), request['file_digest'], config),
      pathlib.Path(request['out']),
    )
    if answers_by is not None:
      answers_by.load(pathlib.Path(request['weights']), request['file_digest'], params)
    results = scorer()(params)
    summary = scoring.summary(results, constitution.objective.verifier)
    write_scores(out, results, summary, file_digest=request['file_digest'])
    if not probed():
      return {'summary': summary}
    answers = probes.score(
      {name: scorer(name) for name in probed()}, probed(), params, constitution.probes.temperature
    )
    said = {
      name: probes.summary(probe, answers[name], [r.answer for r in results], constitution)
      for name, probe in probed().items()
    }
    _write(
      probes_path(out), {'summary': said, 'file_digest': request['file_digest'], 'answers': answers}
    )
    return {'summary': summary, 'probes': said}

  protocol.serve({'score': score})
  if answers_by is not None:
    answers_by.close()


if __name__ == '__main__':
  main()
