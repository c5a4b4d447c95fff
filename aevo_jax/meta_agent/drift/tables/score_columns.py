"""Columns of a table of candidates: which hold scores, on which scale, and which way is better.

A name is read by its words: `val_bpb` has the words `val` and `bpb`. What a column is, is said by
the person who brings the table where names and numbers leave it open.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from scipy import stats

MISSING = {'', '-', 'na', 'n/a', 'nan', 'none', 'null'}
# Numbers under these names are no scores.
_BOOKKEEPING = {
  '',
  'batch',
  'candidate',
  'date',
  'day',
  'entry',
  'generation',
  'id',
  'index',
  'iteration',
  'learning rate',
  'month',
  'no',
  'number',
  'rank',
  'round',
  'row',
  'run',
  'submission',
  'trial',
  'unnamed 0',
  'week',
  'weight decay',
  'worker',
  'year',
}
# Numbers under a name that ends with one of these words are none either: resources, settings,
# counts. `memory_gb` is one of them, `memory_recall` is not.
_RESOURCES = {
  'beta1',
  'beta2',
  'cost',
  'decay',
  'dim',
  'dropout',
  'duration',
  'elapsed',
  'epoch',
  'epochs',
  'flops',
  'gb',
  'gib',
  'gpu',
  'gpus',
  'heads',
  'hours',
  'layers',
  'lr',
  'mb',
  'mem',
  'memory',
  'mib',
  'minutes',
  'momentum',
  'ms',
  'parameters',
  'params',
  'runtime',
  'sec',
  'seconds',
  'secs',
  'seed',
  'size',
  'step',
  'steps',
  'temperature',
  'time',
  'timestamp',
  'tokens',
  'usd',
  'used',
  'vram',
  'wallclock',
  'warmup',
}
_LOSSES = {
  'bpb',
  'bpc',
  'bpw',
  'ce',
  'crossentropy',
  'entropy',
  'logloss',
  'loss',
  'losses',
  'mae',
  'mse',
  'nats',
  'nll',
  'perplexity',
  'ppl',
  'regret',
  'rmse',
  'xent',
}
_ERROR_RATES = {'cer', 'ece', 'err', 'error', 'errors', 'brier', 'wer'}
_STATUS = {'outcome', 'state', 'status'}
_CRASHED = re.compile(
  r'(crash|fail|error|oom|out.of.memory|time[d_ -]*out|kill|abort|cancel|diverge|nan\b|invalid)'
)
# `0,125` is a decimal comma or three digits of a thousand; nobody can tell which.
_COMMAS = re.compile(r'[+-]?\d[\d.]*,[\d,.]*%?')
# A share is at most 1; percentages of a whole column are hardly ever all below this.
_LEAST_PERCENT = 20
_FALLS = -0.7
_FEWEST_TO_FALL = 8
_FEWEST_TO_COUNT = 5
_TIMESTAMPS = 1e9
SHARES = 'shares (0 to 1)'
PERCENTAGES = 'percentages (0 to 100)'


def words(name: str) -> list[str]:
  """Divides a name into its words, in small letters."""
  apart = re.sub(r'([a-z])([A-Z])', r'\1 \2', name)
  return re.findall(r'[a-z0-9]+', apart.lower())


def is_status(name: str) -> bool:
  """Whether a column says how a candidate ended."""
  return name.lower() in _STATUS


def has_crashed(status: str) -> bool:
  """Whether a status says that a candidate has no scores: crash, failed, OOM, timeout and so on."""
  return _CRASHED.match(status.lower()) is not None


def is_loss(name: str) -> bool:
  """Whether a name is that of a loss, of which less is better."""
  return not _LOSSES.isdisjoint(words(name))


def less_is_better(name: str) -> bool:
  """Whether a name suggests that less is better: a loss or a rate of errors."""
  return is_loss(name) or not _ERROR_RATES.isdisjoint(words(name))


def falls_as_losses_do(values: Sequence[float]) -> bool:
  """Whether values in the order of time fall on a scale that neither shares nor percentages have.

  Args:
    values: in the order of the file.

  Returns:
    False where fewer than 8 are there, or nearly all have the ranks of another order.
  """
  on_known_scale = scale(values) == SHARES or max(values) >= _LEAST_PERCENT
  if len(values) < _FEWEST_TO_FALL or on_known_scale or min(values) == max(values):
    return False
  return float(stats.spearmanr(range(len(values)), values).statistic) <= _FALLS


def scale(values: Sequence[float]) -> str:
  """Names the scale of a column's scores: SHARES, PERCENTAGES, or '' where they are neither.

  Args:
    values: at least one, as they are written.
  """
  if min(values) < 0 or max(values) > 100:
    return ''
  return SHARES if max(values) <= 1 else PERCENTAGES


def has_comma(cell: str) -> bool:
  """Whether a cell is a number but for a comma: a decimal one, or one between thousands."""
  return _COMMAS.fullmatch(cell) is not None


def number(cell: str) -> float | None:
  """Reads the finite number of a cell, with or without a percent sign; None without one."""
  try:
    value = float(cell.removesuffix('%'))
  except ValueError:
    return None
  return value if abs(value) < float('inf') else None


def is_infinite(cell: str) -> bool:
  """Whether a cell says infinity, as a run that diverged may have it."""
  return re.fullmatch(r'[+-]?inf(inity)?', cell.lower()) is not None


def why_no_score(name: str, cells: Iterable[str]) -> str:
  """Says why a column holds no scores.

  Args:
    name: of the column.
    cells: as text, in the order of the file.

  Returns:
    A few words; '' where it may hold scores.
  """
  parts = words(name)
  if ' '.join(parts) in _BOOKKEEPING or parts[-1] in _RESOURCES:
    return 'no score by its name'
  present = [cell for cell in cells if cell.lower() not in MISSING]
  if not present:
    return 'empty'
  numbers = [number(cell) for cell in present if number(cell) is not None or has_comma(cell)]
  if 2 * len(numbers) <= len(present):
    return 'not numeric'
  if len(numbers) == len(present) > 1 and None not in numbers and len(set(numbers)) == 1:
    return f'{present[0]} in every row'
  if len(numbers) == len(present) >= _FEWEST_TO_COUNT and _counts(numbers):
    return 'counts the rows'
  if None not in numbers and min(numbers) >= _TIMESTAMPS:
    return 'too large for scores, as timestamps are'
  return ''


def _counts(numbers: Sequence[float | None]) -> bool:
  """Whether numbers begin with 0 or 1 and go up by one from each to the next."""
  steps = [b - a for a, b in pairwise(numbers) if a is not None and b is not None]
  return numbers[0] in (0, 1) and steps == [1] * (len(numbers) - 1)
