"""Rounds of evidence whose scores a test gives."""

from typing import Any, NamedTuple

from aevo_jax.meta_agent.evidence import Evidence, ExternalNoise, Noise, TrialEvidence
from aevo_jax.meta_agent.scores import DevScore, Proportion


class Row(NamedTuple):
  """One trial: dev accuracy and released external score, None without one."""

  axis: str
  changes: dict[str, Any]
  dev: float | None = None
  external: float | None = None


def proportion(accuracy: float, total: int = 1200) -> Proportion:
  """Of items; its interval is the accuracy itself."""
  correct = round(total * min(max(accuracy, 0), 1))
  return Proportion(correct, total, accuracy, accuracy, accuracy)


def dev_score(accuracy: float, total: int = 1200) -> DevScore:
  """Without families."""
  return DevScore(proportion(accuracy, total), {}, proportion(accuracy, total))


def evidence(
  round_: int, standing: dict, rows: list[tuple], *, seed_sd: float = 0.005, dof: int = 4
) -> Evidence:
  """The evidence of a round of `rows`, which are read as `Row`; one noise in all scores."""
  trials = []
  for worker, row in enumerate(rows):
    trial = Row(*row)
    trials.append(
      TrialEvidence(
        trial=f'r{round_}w{worker}',
        worker=worker,
        axis=trial.axis,
        changes=trial.changes,
        status='failed' if trial.dev is None else 'sealed',
        dev=None if trial.dev is None else dev_score(trial.dev),
        external=trial.external,
      )
    )
  external = ExternalNoise(seed_sd, dof, seed_sd, dof)
  noise = Noise(seed_sd, dof, dof + 1, external=external)
  return Evidence(round_, standing, tuple(trials), noise)
