"""The table a campaign ends with, for a terminal: final scores, gains, and where the time went."""

import datetime

from aevo_jax.report.costs import PARTS, TRAINING, Costs
from aevo_jax.report.gains import BASE, PROMOTED, STARTING, FinalResults, Gain
from aevo_jax.report.run_view import RunView

OVER = {BASE: 'the base', STARTING: 'the starting recipe'}
_LEAST_SHARE = 0.0005  # of the processors' time, for a line of its own


def verdict(gain: Gain, over: str) -> str:
  """Writes a gain as a sentence.

  Args:
    gain: what the promoted recipe gained.
    over: 'base' or 'starting'.

  Returns:
    For example 'gained +0.043 [+0.021, +0.066] over the starting recipe'.
  """
  numbers = f'{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]'
  if gain.verdict == 'gain':
    return f'gained {numbers} over {OVER[over]}'
  if gain.verdict == 'loss':
    return f'LOST {numbers} against {OVER[over]}'
  return f'{numbers} against {OVER[over]}: within noise, no gain is shown'


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
  return _scores(view.results)


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


def _scores(results: FinalResults) -> list[str]:
  if not results.scores:
    return ['the final set is not scored yet']
  lines = [f'{"":<12} {"final accuracy [95%]":>24} {"seeds":>6} {"items":>6}']
  for name in (BASE, STARTING, PROMOTED):
    if name in results.scores:
      score = results.scores[name]
      interval = f'{score.accuracy:.3f} [{score.low:.3f}, {score.high:.3f}]'
      lines.append(f'{name:<12} {interval:>24} {score.seeds:>6} {score.items:>6}')
  if PROMOTED not in results.scores:
    lines.append(
      'no retraining of the promoted recipe could be scored; see the failures in the report'
    )
  return [*lines, '']


def _gains(view: RunView) -> list[str]:
  gains = view.results.gains
  lines = [f'the promoted recipe {verdict(gain, over)}' for over, gain in gains.items()]
  promotions = view.state.promotions
  if gains and promotions and not promotions[max(promotions)]['promoted']:
    lines.append(
      '(nothing was promoted, so both are the starting recipe: their difference is noise '
      'between seeds)'
    )
  return lines


def _promotions(view: RunView) -> list[str]:
  lines = []
  exhausted = view.state.exhausted
  if exhausted:
    lines.append(f'the rounds ended after round {exhausted["round"]}: {exhausted["reason"]}')
  if not view.state.promotions:
    return lines
  reasons = []
  for _, decision in sorted(view.state.promotions.items()):
    if decision['promoted'] != decision['before']:
      reasons += [f'  {reason}' for reason in decision['reasons']]
  if not reasons:
    reasons = ['nothing was promoted: no change cleared the noise floor']
  return [*lines, '', *reasons]


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
