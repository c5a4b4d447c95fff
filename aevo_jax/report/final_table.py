"""The table a campaign ends with: base, starting and promoted recipe on the final set, and where the time went."""

import datetime
import pathlib

from aevo_jax.campaign.campaign import FINAL
from aevo_jax.campaign.state import fold
from aevo_jax.ledger.append import read
from aevo_jax.ledger.records import Record


def wall_clock(records: list[Record]) -> dict[str, float]:
  """Seconds between the first and last record (pauses between a kill and its resume included), and the share not spent training.

  The share is of processor slots: 1 - (seconds workers spent in training steps) / (wall seconds x slots).
  """
  started = next(r for r in records if r.kind == 'campaign_started')
  wall = records[-1].time - started.time
  training = sum(r.payload['claim'].get('seconds', {}).get('train', 0.0) for r in records if r.kind == 'trial_sealed')
  return {'wall': wall, 'training': training, 'slots': started.payload['slots'], 'non_training_share': 1 - training / (wall * started.payload['slots'])}


def final_table(run: pathlib.Path) -> str:
  """Plain text."""
  records = read(run / 'ledger.jsonl', strict=False)
  state = fold(records)
  lines = ['', f'{"":<12} {"final accuracy [95%]":>28} {"seeds":>6}']
  for group in ('base', 'starting', 'promoted'):
    scores = [s['overall'] for name, s in sorted(state.final['scores'].items()) if name == group or name.rstrip('0123456789') == group]
    if scores:
      low, high = min(s['low'] for s in scores), max(s['high'] for s in scores)
      accuracy = sum(s['accuracy'] for s in scores) / len(scores)
      lines.append(f'{group:<12} {accuracy:>12.3f} [{low:.3f}, {high:.3f}] {len(scores):>6}')
  clock = wall_clock(records)
  failed = sum(t.status in ('failed', 'refused') for t in state.trials.values())
  promoted = [r for p in sorted(state.promotions.items()) for r in p[1]['reasons']]
  lines += ['', *(promoted or ['no promotion: nothing cleared the noise floor']), '',
            f'{sum(t.round != FINAL for t in state.trials.values())} trials, {failed} failed or refused; wall time {datetime.timedelta(seconds=round(clock["wall"]))}, '
            f'of the processors\' time {100 * clock["non_training_share"]:.0f}% was not training']
  return '\n'.join(lines)
