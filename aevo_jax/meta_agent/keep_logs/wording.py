"""A judgement of a keep-or-discard log as lines of text, the last of them sentences."""

import itertools

from aevo_jax.meta_agent.keep_logs.keep_log import KeepLog
from aevo_jax.meta_agent.keep_logs.kept_gains import Expected, Judgement, KeptGain
from aevo_jax.meta_agent.keep_logs.seed_noise import SeedNoise

_LINES_SHOWN = 8
_DESCRIPTION = 40


def lines(log: KeepLog, noise: SeedNoise, judgement: Judgement) -> list[str]:
  """Writes a judgement.

  Args:
    log: that was judged.
    noise: by which.
    judgement: of the log.

  Returns:
    Lines: the outline, a row for each kept change, the whole log, and a closing sentence.
  """
  return [
    *_outline(log, noise, judgement),
    '',
    *_table(judgement),
    '',
    *_whole(judgement),
    '',
    closing(judgement, noise),
  ]


def _outline(log: KeepLog, noise: SeedNoise, judgement: Judgement) -> list[str]:
  """What the log holds, and the noise that it is judged by."""
  better = 'less' if log.lower_is_better else 'more'
  kept = sum(each.kept for each in log.tries)
  found = [
    f'{len(log.tries)} runs with a score, {kept} of them kept; {log.score}, {better} is better'
  ]
  if log.left_out:
    reasons = sorted(log.left_out.items(), key=lambda item: item[1])
    for why, rows in itertools.groupby(reasons, key=lambda item: item[1]):
      found.append(f'left out ({why}): {_numbered([line for line, _ in rows])}')
  freedom = ''
  if noise.freedom is not None:
    freedom = f', {noise.freedom:.3g} degrees of freedom'
  found.append(f'noise between seeds: {noise.deviation:.3g} ({noise.source}{freedom})')
  found.append(f'baseline: line {judgement.baseline}, the first that was kept')
  if judgement.not_kept:
    found.append(
      f'{_numbered(judgement.not_kept)} scored better than what stood and were discarded, so more '
      'was asked of a change than a better score; noise alone keeps fewer than is said below'
    )
  return found


def _numbered(numbers) -> str:
  """Lines of a file, the first few of them by number."""
  shown = ', '.join(str(number) for number in numbers[:_LINES_SHOWN])
  more = len(numbers) - _LINES_SHOWN
  if len(numbers) == 1:
    return f'line {shown}'
  return f'lines {shown}' + (f' and {more} more' if more > 0 else '')


def _table(judgement: Judgement) -> list[str]:
  """A row for each kept change."""
  header = ('line', 'over', 'gain', '+-', 'tries', 'p of a pair', 'p', '', '')
  rows = [header]
  for each in judgement.kept:
    rows.append(_row(each))
  widths = [max(len(row[place]) for row in rows) for place in range(len(header))]
  found = []
  for row in rows:
    cells = []
    for place, cell in enumerate(row):
      words = place >= len(header) - 2
      cells.append(cell.ljust(widths[place]) if words else cell.rjust(widths[place]))
    found.append('  '.join(cells).rstrip())
  return found


def _row(each: KeptGain) -> tuple[str, ...]:
  verdict = 'exceeds noise' if each.exceeds_noise else 'within noise'
  if each.gain <= 0:
    verdict = 'no gain'
  return (
    str(each.line),
    str(each.over),
    f'{each.gain:+.3g}',
    f'{each.error:.2g}',
    str(each.tries),
    f'{each.pair_p:.2g}',
    f'{each.p:.2g}',
    verdict,
    each.description[:_DESCRIPTION],
  )


def _whole(judgement: Judgement) -> list[str]:
  """What noise alone would have done, beside what was done."""
  found = [
    f'kept after the baseline: {len(judgement.kept)} of {judgement.tries}; by noise alone '
    f'{_count(judgement.by_noise)}'
  ]
  if judgement.others_by_noise is not None:
    others = len(judgement.kept) - len(judgement.exceeding)
    found.append(
      f'kept beside those that exceed noise: {others}; by noise alone '
      f'{_count(judgement.others_by_noise)} if those are real'
    )
  luck = judgement.improvement_by_noise
  named = sum(each.gain for each in judgement.exceeding)
  found.append(f'gains that exceed noise, added up: {named:.3g}')
  found.append(
    f'improvement: {judgement.improvement:.3g}; by noise alone {luck.centre:.2g} '
    f'[{luck.interval.low:.2g}, {luck.interval.high:.2g}]; beyond the luckiest of '
    f'{judgement.tries} tries, with {1 - judgement.alpha:.0%} confidence: '
    f'{judgement.certain:.3g} or more'
  )
  return found


def _count(expected: Expected) -> str:
  low, high = expected.interval
  return f'{expected.centre:.1f} [{low:.0f}, {high:.0f}]'


def closing(judgement: Judgement, noise: SeedNoise) -> str:
  """Writes what was seen in a log, and what could have been seen.

  Args:
    judgement: of the log.
    noise: by which it was judged.

  Returns:
    Three sentences.
  """
  exceeding = len(judgement.exceeding)
  kept = len(judgement.kept)
  seen = f'{exceeding} of {kept} kept gains exceed the noise between seeds'
  low, high = judgement.by_noise.interval
  if kept > high:
    seen += ', and more were kept than noise alone keeps'
  elif kept < low:
    seen += ', and fewer were kept than noise alone keeps'
  else:
    seen += ', and noise alone keeps as many'
  share = judgement.certain_share
  certain = 'None of the improvement is certain: the luckiest try may explain all of it.'
  if share > 0:
    certain = (
      f'At least {share:.0%} of the improvement is real ({judgement.certain:.3g} of '
      f'{judgement.improvement:.3g}).'
    )
  first, later = judgement.detectable
  could = (
    f'A change that is truly {first:.2g} better than the score on record is told from noise in 8 '
    'of 10 cases at the first try'
  )
  if judgement.median_tries > 1:
    could += f', one that is {later:.2g} better at try {judgement.median_tries}'
  return f'{seen}. {certain} {could}; one run has noise of {noise.deviation:.2g}.'
