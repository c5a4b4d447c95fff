"""Private scores: sealed weights on the external and the final set, for the arbiter."""

import pathlib

from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config.constitution import Constitution
from aevo_jax.evaluation import scoring, sets
from aevo_jax.evaluation.scoring import ItemResult, Scorer
from aevo_jax.evaluation.servers.backend import Backend


class PrivateScores:
  """Scores sealed weights on the private sets.

  A set is drawn and its sampler compiled at the first request, and kept.

  Args:
    backend: loads weights and creates scorers.
    constitution: the run's.
    secret: of the holdout.
    tasks: file of the frozen tasks of a user; read where the constitution has some.
  """

  def __init__(
    self, backend: Backend, constitution: Constitution, secret: bytes, tasks: pathlib.Path
  ):
    self._backend = backend
    self.constitution = constitution
    self._secret = secret
    self._tasks_path = tasks
    self._scorers: dict[str, Scorer] = {}

  def __call__(
    self, split: str, weights: pathlib.Path, file_digest: str
  ) -> tuple[list[ItemResult], dict]:
    """Scores a candidate.

    Args:
      split: 'external' or 'final'.
      weights: a sealed file.
      file_digest: its SHA-256 digest.

    Returns:
      Its item results and their summary.
    """
    params = self._backend.load(weights, file_digest)
    if split not in self._scorers:
      tasks = sets.own_tasks(self.constitution, self._tasks_path)
      items = sets.private_items(self.constitution, split, self._secret, tasks)
      self._scorers[split] = self._backend.scorer(items)
    results = self._scorers[split](params)
    return results, scoring.summary(results, self.constitution.objective.verifier)

  def check(self, request: dict) -> dict:
    """Loads weights and scores nothing; see `Backend.check`."""
    return self._backend.check(request)

  def close(self) -> None:
    """Ends an inference server that was started."""
    self._backend.close()


def open_scores(
  constitution: pathlib.Path,
  base: pathlib.Path,
  *,
  secret: bytes,
  log: pathlib.Path,
  threads: int,
) -> PrivateScores:
  """Opens the private scores of a run.

  Args:
    constitution: the run's file; tasks of a user lie beside it.
    base: directory with config.json and the tokenizer.
    secret: of the holdout.
    log: of an inference server that is started.
    threads: of an inference server on a CPU.

  Returns:
    The scores. Raises SystemExit where the constitution commits to another secret.
  """
  rules = constitution_lib.read(constitution)
  commitment = sets.commitment(secret)
  if rules.holdout.commitment != commitment:
    raise SystemExit(
      f'the constitution commits to {rules.holdout.commitment or "nothing"}, and '
      f"this machine's arbiter holds {commitment}: the run was started on another machine, or its "
      'constitution was edited'
    )
  backend = Backend(rules, base, log=log, threads=threads, url=rules.evaluation.arbiter_url)
  return PrivateScores(backend, rules, secret, constitution.with_name(sets.TASKS))
