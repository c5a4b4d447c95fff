"""Verdicts and evidence: thresholds, statistics of dev against external, and what follows."""

import collections

from aevo_jax.campaign.decisions import arms, decisions
from aevo_jax.report.audit.audited_run import AuditedRun, sha256
from aevo_jax.stats import concordance


def check_verdicts(run: AuditedRun) -> str:
  """Checks thresholds from the rounds before, and verdicts from the statistics under them.

  Args:
    run: a run with the constitution it began with.

  Returns:
    The number of verdicts, by kind.
  """
  for round_, recorded in run.state.thresholds.items():
    thresholds = decisions.fix_thresholds(run.state, round_, run.constitution, run.started['seed'])
    run.expect(
      recorded == thresholds,
      f'round {round_}: the thresholds do not follow from the rounds before it',
    )
  if run.manual:
    _check_submitted_statistics(run)
  counts = collections.Counter()
  for round_, recorded in run.state.verdicts.items():
    run.expect(
      recorded == decisions.verdicts(run.state, round_, run.constitution),
      f'round {round_}: the statistics give other verdicts than were recorded',
    )
    counts.update(verdict['verdict'] for verdict in recorded.values())
  kinds = [f'{count} {verdict}' for verdict, count in sorted(counts.items())]
  return f'{counts.total()} verdicts recomputed: {", ".join(kinds)}'


def _check_submitted_statistics(run: AuditedRun) -> None:
  """Of a manual arbiter the statistics follow from the scores that were handed in."""
  for round_, recorded in run.state.concordance.items():
    statistics = decisions.submitted_concordance(
      run.state.of_round(round_), decisions.tie_seed(run.started['seed'], round_)
    )
    run.expect(
      recorded == statistics,
      f'round {round_}: the recorded statistics of dev and external are not those of the '
      'scores that were handed in',
    )
  for round_, recorded in _looks(run).items():
    run.expect(
      recorded == decisions.submitted_control(run.state, round_, run.constitution),
      f'round {round_}: the recorded test of the control arm is not that of the scores '
      'that were handed in',
    )


def check_concordance(run: AuditedRun) -> str:
  """Checks the statistics behind the verdicts, and the control arm's test, from the answers.

  Args:
    run: a run with a revealed secret that holds.

  Returns:
    Numbers of rounds and of tests.
  """
  for round_, recorded in run.state.concordance.items():
    run.expect(
      recorded == _concordance(run, round_),
      f'round {round_}: the recorded statistics of dev and external are not those of the answers',
    )
  looks = _looks(run)
  for round_, recorded in looks.items():
    run.expect(
      recorded == _control(run, round_),
      f'round {round_}: the recorded test of the control arm is not that of the answers',
    )
  earlier = len(run.state.attributions) - len(looks)
  left = f'; {earlier} tests of explorers by an earlier version left unchecked' if earlier else ''
  return (
    f'{len(run.state.concordance)} rounds of statistics and {len(looks)} '
    f'tests of a control arm recomputed from the answers{left}'
  )


def _concordance(run: AuditedRun, round_: int) -> dict:
  """Statistics of dev and external by stream, as the arbiter computes them."""
  trials = run.state.of_round(round_)
  dev = decisions.dev_streams(trials)
  external: dict[str, dict[str, float | None]] = {}
  for stream, scores in dev.items():
    external[stream] = {}
    for trial in scores:
      score = run.external(trial).get(stream, {})
      external[stream][trial] = score.get('accuracy')
  return concordance.reduce_round(
    dev,
    external,
    decisions.dev_item_variance(trials),
    decisions.tie_seed(run.started['seed'], round_),
  )


def _looks(run: AuditedRun) -> dict[int, dict | None]:
  """Recorded comparisons of arms at a look. Earlier versions compared explorers, and named none."""
  results = {}
  for round_, recorded in run.state.attributions.items():
    if arms.compared(run.state, round_) is not None:
      results[round_] = recorded
  return results


def _control(run: AuditedRun, look: int) -> dict | None:
  """The comparison of the arms, as the arbiter computes it."""

  def proportion(trial: str) -> dict:
    return run.external(trial)['overall']

  return arms.result(run.state, look, proportion, run.constitution)


def check_evidence(run: AuditedRun) -> str:
  """Checks each round's evidence, rebuilt from the ledger's records, and its file.

  Args:
    run: a run with the constitution it began with.

  Returns:
    The number of rounds.
  """
  for round_, recorded in run.state.evidence.items():
    path = run.evidence_path(round_)
    run.expect(
      sha256(run.rebuilt_evidence(round_)) == recorded,
      f"round {round_}: the ledger's records give other evidence than was recorded",
    )
    run.expect(
      path.exists() and sha256(path.read_text()) == recorded,
      f'{path.relative_to(run.path)} is not the recorded evidence',
    )
  return f'{len(run.state.evidence)} rounds of evidence rebuilt from the ledger'
