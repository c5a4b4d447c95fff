"""Dev scores: the evaluator's operation."""

import functools
import pathlib

from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config.constitution import Constitution
from aevo_jax.evaluation import probes as probes_lib
from aevo_jax.evaluation import scoring, sets
from aevo_jax.evaluation.scoring import ItemResult, Scorer
from aevo_jax.evaluation.servers import score_files
from aevo_jax.evaluation.servers.backend import Backend
from aevo_jax.tasks.own_data import OwnTasks


class Evaluator:
  """Scores sealed weights on the dev set and the probes.

  Sets are drawn and samplers compiled at the first request, and kept.

  Args:
    backend: loads weights and creates scorers.
    constitution: the run's.
    tasks: file of the frozen tasks of a user; read where the constitution has some.
  """

  def __init__(self, backend: Backend, constitution: Constitution, tasks: pathlib.Path):
    self._backend = backend
    self._constitution = constitution
    self._tasks_path = tasks

  @functools.cached_property
  def _tasks(self) -> OwnTasks | None:
    return sets.own_tasks(self._constitution, self._tasks_path)

  @functools.cached_property
  def _probes(self) -> dict[str, probes_lib.Probe]:
    return probes_lib.build(self._constitution, self._tasks)

  @functools.cached_property
  def _dev_scorer(self) -> Scorer:
    return self._backend.scorer(sets.dev_items(self._constitution, self._tasks))

  @functools.cached_property
  def _probe_scorers(self) -> dict[str, Scorer]:
    return {name: self._backend.scorer(probe.items) for name, probe in self._probes.items()}

  def score(self, request: dict) -> dict:
    """Scores a candidate and writes its score files.

    Args:
      request: 'weights', 'file_digest' and 'out'.

    Returns:
      'summary', and 'probes' if the constitution has some.
    """
    digest = request['file_digest']
    out = pathlib.Path(request['out'])
    params = self._backend.load(pathlib.Path(request['weights']), digest)
    results = self._dev_scorer(params)
    summary = scoring.summary(results, self._constitution.objective.verifier)
    score_files.write_scores(out, results, summary, file_digest=digest)
    if not self._probes:
      return {'summary': summary}
    answers = probes_lib.score(
      self._probe_scorers, self._probes, params, self._constitution.probes.temperature
    )
    summaries = self._summarize(answers, results)
    score_files.write_probes(score_files.probes_path(out), answers, summaries, file_digest=digest)
    return {'summary': summary, 'probes': summaries}

  def check(self, request: dict) -> dict:
    """Loads weights and scores nothing; see `Backend.check`."""
    return self._backend.check(request)

  def _summarize(self, answers: dict, results: list[ItemResult]) -> dict[str, dict]:
    dev_answers = [result.answer for result in results]
    summaries = {}
    for name, probe in self._probes.items():
      summaries[name] = probes_lib.summary(probe, answers[name], dev_answers, self._constitution)
    return summaries

  def close(self) -> None:
    """Ends an inference server that was started."""
    self._backend.close()


def open_evaluator(constitution: pathlib.Path, base: pathlib.Path, *, threads: int) -> Evaluator:
  """Opens the evaluator of a run.

  Args:
    constitution: the run's file; tasks of a user lie beside it.
    base: directory with config.json and the tokenizer.
    threads: of an inference server on a CPU.

  Returns:
    The evaluator.
  """
  rules = constitution_lib.read(constitution)
  backend = Backend(
    rules,
    base,
    log=constitution.parent / 'logs' / 'vllm_evaluator.log',
    threads=threads,
    url=rules.vllm.url,
  )
  return Evaluator(backend, rules, constitution.with_name(sets.TASKS))
