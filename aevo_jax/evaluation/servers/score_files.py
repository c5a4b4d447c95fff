"""Score files: what evaluator and arbiter write of one candidate on one set of items."""

import json
import os
import pathlib
from collections.abc import Iterable


def write_scores(path: pathlib.Path, results: Iterable, summary: dict, *, file_digest: str) -> None:
  """Writes the scores of a candidate: aside, then renamed.

  Args:
    path: the file; its folder is created.
    results: `scoring.ItemResult` of every item.
    summary: of the results.
    file_digest: of the scored weights.
  """
  from aevo_jax.evaluation.scoring import to_rows  # noqa: PLC0415 - it starts JAX

  _write(path, {'summary': summary, 'file_digest': file_digest, 'items': to_rows(results)})


def write_probes(path: pathlib.Path, answers: dict, summary: dict, *, file_digest: str) -> None:
  """Writes the answers of a candidate to the probes: aside, then renamed.

  Args:
    path: see `probes_path`.
    answers: probe -> extracted answers, item by item.
    summary: probe -> its summary.
    file_digest: of the scored weights.
  """
  _write(path, {'summary': summary, 'file_digest': file_digest, 'answers': answers})


def probes_path(path: pathlib.Path) -> pathlib.Path:
  """Finds the file of a candidate's answers to the probes.

  Args:
    path: the file of its dev scores.

  Returns:
    The path beside it.
  """
  return path.with_name(f'{path.name.split(".")[0]}.probes.json')


def _write(path: pathlib.Path, content: dict) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  temporary.write_text(json.dumps(content))
  temporary.rename(path)
