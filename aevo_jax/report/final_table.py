"""The table a campaign ends with, for a terminal: base, starting and promoted recipe on the final
set, the gains, and where the time went.
"""

import datetime

from aevo_jax.campaign.decisions import FINAL
from aevo_jax.report.costs import PARTS, TRAINING
from aevo_jax.report.gains import BASE, PROMOTED, STARTING, FinalResults, Gain
from aevo_jax.report.run_view import RunView

OVER = {BASE: 'the base', STARTING: 'the starting recipe'}


def verdict(gain: Gain, over: str) -> str:
  """One sentence, e.g. 'gained +0.043 [+0.021, +0.066] over the starting recipe'."""
  numbers = f'{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]'
  return {
    'gain': f'gained {numbers} over {OVER[over]}',
    'loss': f'LOST {numbers} against {OVER[over]}',
    'noise': f'{numbers} against {OVER[over]}: within noise, no gain is shown',
  }[gain.verdict]


def final_table(view: RunView) -> str:
  """Plain text, at most 110 columns beside the reasons of promotions.

  Raises:
    ScoreFileError: the score files are not those of the ledger.
  """
  state, results, clock = view.state, view.results, view.costs
  lines = ['']
  if state.finished is None:
    lines += [
      (
        f'UNFINISHED: {len(state.finished_rounds)} rounds are finished; go on with aevo '
        f'campaign --resume={view.run}'
      ),
      '',
    ]
  if view.constitution.objective.target == 'proxies':
    lines += [
      'no external target: the final set is of held-out items of the same generators'
      if not view.constitution.tasks.path
      else 'no external target: the final set is of held-out tasks of the same file',
      '',
    ]
  lines += _submitted(view) if view.manual else _scores(results)
  lines += [f'the promoted recipe {verdict(gain, over)}' for over, gain in results.gains.items()]
  if results.gains and state.promotions and not state.promotions[max(state.promotions)]['promoted']:
    lines.append(
      '(nothing was promoted, so both are the starting recipe: their difference is noise '
      'between seeds)'
    )
  if state.exhausted:
    lines.append(
      f'the rounds ended after round {state.exhausted["round"]}: {state.exhausted["reason"]}'
    )
  promoted = [
    reason
    for _, p in sorted(state.promotions.items())
    if p['promoted'] != p['before']
    for reason in p['reasons']
  ]
  if state.promotions:
    lines += [
      '',
      *(
        [f'  {reason}' for reason in promoted]
        or ['nothing was promoted: no change cleared the noise floor']
      ),
    ]
  campaign = [t for t in state.trials.values() if t.round != FINAL]
  lost = [t for t in state.trials.values() if t.status in ('failed', 'refused')]
  lines += [
    '',
    f'{len(campaign)} trials and {len(state.trials) - len(campaign)} final retrainings, '
    f'{len(lost)} failed or refused; '
    f'{clock.total("tokens"):,} tokens, {clock.total("steps"):,} steps',
    f'wall time {_duration(clock.wall - clock.paused)}'
    + (
      f' (and {_duration(clock.paused)} interrupted, {state.resumes} resume(s))'
      if state.resumes
      else ''
    )
    + (
      f'; of the time of {clock.slots} processor slot(s) '
      f'{100 * clock.non_training_share:.0f}% was not training:'
    ),
  ]
  spent = clock.processor_seconds or 1.0
  lines += [
    f'  {100 * seconds / spent:5.1f}%  {PARTS[part]}'
    for part, seconds in sorted(clock.parts.items(), key=lambda item: -item[1])
    if part != TRAINING and seconds / spent >= 0.0005
  ]
  return '\n'.join(lines)


def _submitted(view: RunView) -> list[str]:
  last = next((t for t in view.final_trials() if t.submission is not None), None)
  lines = ['scored by somebody else: there is no private final set, and no gain is claimed here']
  if last is not None:
    score = (
      'given up'
      if last.waived
      else 'not handed in yet'
      if last.submitted is None
      else f'{last.submitted:g}, as handed in'
    )
    lines.append(
      f'last submission: {last.trial} of the '
      f'{"promoted" if view.promoted else "starting"} recipe, score {score}'
    )
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


def _duration(seconds: float) -> str:
  return str(datetime.timedelta(seconds=round(seconds)))
