"""The table a campaign ends with, for a terminal: final scores, gains, and where the time went."""

import datetime

from aevo_jax.report import claims
from aevo_jax.report.costs import PARTS, TRAINING, Costs
from aevo_jax.report.gains import BASE, PROMOTED, STARTING
from aevo_jax.report.run_view import RunView

_LEAST_SHARE = 0.0005  # of the processors' time, for a line of its own


def final_table(view: RunView) -> str:
  """Writes the table of a run.

  Args:
    view: the run; of an unfinished one the table goes as far as it has come.

  Returns:
    Plain text, at most 110 columns beside the reasons of promotions.

  Raises:
    ScoreFileError: the score files are not those of the ledger.
  """
  return '\n'.join(
    ['', *_notes(view), *_final_scores(view), *_gains(view), *_promotions(view), '', *_costs(view)]
  )


def _notes(view: RunView) -> list[str]:
  lines = []
  if view.state.finished is None:
    rounds = len(view.state.finished_rounds)
    lines += [
      f'UNFINISHED: {rounds} rounds are finished; go on with aevo campaign --resume={view.run}',
      '',
    ]
  if view.proxies_only:
    source = 'items of the same generators'
    if view.constitution.tasks.path:
      source = 'tasks of the same file'
    lines += [f'no external target: the final set is of held-out {source}', '']
  return lines


def _final_scores(view: RunView) -> list[str]:
  if view.manual:
    return _submitted(view)
  return _scores(view)


def _submitted(view: RunView) -> list[str]:
  lines = ['scored by somebody else: there is no private final set, and no gain is claimed here']
  last = next((t for t in view.final_trials() if t.submission is not None), None)
  if last is not None:
    if last.waived:
      score = 'given up'
    elif last.submitted is None:
      score = 'not handed in yet'
    else:
      score = f'{last.submitted:g}, as handed in'
    recipe = 'promoted' if view.promoted else 'starting'
    lines.append(f'last submission: {last.trial} of the {recipe} recipe, score {score}')
  return [*lines, '']


def _scores(view: RunView) -> list[str]:
  results = view.results
  if not results.scores:
    if view.state.finished is not None:
      return ['no retraining could be scored, so nothing is known of the final set', '']
    return ['the final set is not scored yet']
  called = claims.names(view)
  lines = [f'{"":<12} {"final accuracy [95%]":>24} {"seeds":>6} {"items":>6}']
  for name in (BASE, STARTING, PROMOTED):
    if name in results.scores:
      score = results.scores[name]
      interval = f'{score.accuracy:.3f} [{score.low:.3f}, {score.high:.3f}]'
      lines.append(f'{called[name]:<12} {interval:>24} {score.seeds:>6} {score.items:>6}')
  for name in (STARTING, PROMOTED):
    if name not in results.scores:
      lines.append(
        f'no retraining ({called[name]}) could be scored; see the failures in the report'
      )
  return [*lines, '']


def _gains(view: RunView) -> list[str]:
  notes = [f'NOTE: {warning}' for warning in claims.warnings(view)]
  return claims.sentences(view) + notes


def _promotions(view: RunView) -> list[str]:
  if not view.state.promotions:
    return []
  reasons = []
  for _, decision in sorted(view.state.promotions.items()):
    if decision['promoted'] != decision['before']:
      reasons += [f'  {reason}' for reason in decision['reasons']]
  if not reasons and view.state.finished is None:
    reasons = ['nothing is promoted so far']
  elif not reasons:
    reasons = [claims.nothing_promoted(view)]
  return ['', *reasons]


def _costs(view: RunView) -> list[str]:
  costs = view.costs
  retrainings = len(view.final_trials())
  statuses = view.statuses
  lost = statuses['failed'] + statuses['refused']
  return [
    f'{statuses.total() - retrainings} trials and {retrainings} final retrainings, '
    f'{lost} failed or refused; {costs.total("tokens"):,} tokens, {costs.total("steps"):,} steps',
    _wall_time(costs, view.state.resumes),
    *_parts(costs),
  ]


def _wall_time(costs: Costs, resumes: int) -> str:
  line = f'wall time {_duration(costs.wall - costs.paused)}'
  if resumes:
    line += f' (and {_duration(costs.paused)} interrupted, {resumes} resume(s))'
  share = f'{100 * costs.non_training_share:.0f}%'
  return f'{line}; of the time of {costs.slots} processor slot(s) {share} was not training:'


def _parts(costs: Costs) -> list[str]:
  spent = costs.processor_seconds or 1.0
  lines = []
  for part, seconds in sorted(costs.parts.items(), key=lambda item: -item[1]):
    if part != TRAINING and seconds / spent >= _LEAST_SHARE:
      lines.append(f'  {100 * seconds / spent:5.1f}%  {PARTS[part]}')
  return lines


def _duration(seconds: float) -> str:
  return str(datetime.timedelta(seconds=round(seconds)))
