"""aevo replay_ledger as a person types it: a history that turns, one that does not, and requests
that cannot be served.
"""

import pathlib

import numpy as np
import pytest
from aevo_command import REPOSITORY, aevo

HISTORY = REPOSITORY / 'docs' / 'history.csv'


def replay(*arguments):
  return aevo('replay_ledger', *arguments)


def history(path: pathlib.Path, turns: int | None) -> pathlib.Path:
  """Six rounds of 8 in percent, three families; from round `turns` on the second pays for every
  point of dev with one of the external score.
  """
  rng = np.random.default_rng(0)
  lines = ['# a season', 'week,name,north,south,west,private']
  for number in range(1, 7):
    for candidate in range(8):
      shift = rng.normal(size=3)
      share = np.array([0.4, -1.6 if turns and number >= turns else 0.8, 0.4])
      lines.append(
        f'{number},c{candidate},'
        + ','.join(f'{50 + 5 * s:.1f}' for s in shift)
        + f',{50 + 5 * (share @ shift + 0.3 * rng.normal()):.2f}'
      )
  path.write_text('\n'.join(lines) + '\n')
  return path


def test_a_reversal_is_announced_for_the_family_that_turned(tmp_path):
  result = replay(
    history(tmp_path / 'h.csv', turns=4),
    '--external_column=private',
    '--round_column=week',
    '--items=400',
  )
  assert result.returncode == 0, result.stderr
  rounds = result.stdout.split('\nround ')
  assert len(rounds) == 7 and all(line.count('detectable') == 4 for line in rounds[1:])
  assert 'overall: no such column' in rounds[0] and 'name (not numeric)' in rounds[0]
  alarms = [line for line in result.stdout.splitlines() if line.startswith('ALARM')]
  south = next(line for line in alarms if line.startswith('ALARM south'))
  assert 'round 4' in south or 'round 5' in south
  assert not any(
    'round 1' in line or 'round 2' in line or 'round 3' in line or 'north' in line
    for line in alarms
  )


def test_a_history_in_which_nothing_turns_has_no_alarm(tmp_path):
  path = history(tmp_path / 'h.csv', turns=None)
  path.write_text(
    path.read_text() + '7,late,50,51,52,53\n7,later,51,52,53,55\n7,last,52,54,53,55\n'
  )
  result = replay(path, '--external_column=private', '--gin.reversal.calibration_rounds=3')
  assert result.returncode == 0, result.stderr
  assert (
    result.stdout.endswith('no alarm in 7 rounds\n')
    and 'round 7: 3 candidates' in result.stdout
    and 'unknown without --items' in result.stdout
  )


@pytest.mark.parametrize(
  ('arguments', 'status', 'said'),
  [
    (['nowhere.csv', '--external_column=x'], 1, 'nowhere.csv'),
    ([HISTORY], 1, '--external_column is missing'),
    (
      [HISTORY, '--external_column=x', '--round_size=8', '--round_column=week'],
      1,
      'leave out one',
    ),
    (
      [HISTORY, '--external_column=x', '--gin.reversal.alpha=2.0'],
      1,
      'reversal.alpha must lie in (0, 1)',
    ),
  ],
)
def test_what_cannot_be_served_is_a_sentence(arguments, status, said):
  result = replay(*arguments)
  assert (
    result.returncode == status
    and said in result.stdout + result.stderr
    and 'Traceback' not in result.stderr
  )
