"""aevo replay_ledger as a person types it: a history that turns, one that does not, and requests
that cannot be served.
"""

import gzip
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
  assert any(f'round {late}' in south for late in (4, 5, 6))
  seen = next(line for line in result.stdout.splitlines() if line.startswith('  south: '))
  assert (
    'against each other (after round' in seen and 'could have been seen, with power 0.8' in seen
  )
  assert 'SIZE OF ROUNDS' not in result.stdout
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
    'no alarm in 7 rounds\n' in result.stdout
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
      [HISTORY, '--external_column=private_score', '--round_by=week'],
      1,
      'divides the dates of --round_column',
    ),
    (
      [HISTORY, '--external_column=private_score', '--gin.reversal.alpha=2.0'],
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


@pytest.mark.parametrize(
  ('name', 'content', 'said'),
  [
    ('h.json', b'[{"a": 1}, {"a": 2}]', 'is JSON, where CSV or TSV is expected'),
    ('h.json', b'{"a": [1, 2],\n "b": [1, 2]}\n', 'pandas.read_json(FILE).to_csv('),
    ('h.jsonl', b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n', 'pandas.read_json(FILE, lines=True).to_csv('),
    ('h.parquet', b'PAR1\x15\xff', 'is Parquet, where CSV or TSV is expected'),
    (
      'h.csv.gz',
      gzip.compress(b'a,b\n', mtime=0),
      'is packed by gzip; unpack it first: gunzip h.csv.gz',
    ),
    ('h.xls', b'\xd0\xcf\x11\xe0\xa1', 'pandas.read_excel(FILE).to_csv('),
  ],
)
def test_a_table_of_another_kind_is_named_with_what_to_do(
  tmp_path, monkeypatch, name, content, said
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / name).write_bytes(content)
  result = replay(name, '--external_column=b')
  assert result.returncode == 1 and said in result.stderr, result.stderr
  assert result.stderr.startswith(f'replay_ledger: {name} is ')


def losses(path: pathlib.Path) -> pathlib.Path:
  """A dev loss that falls while the external score rises, in 32 candidates."""
  rng = np.random.default_rng(1)
  lines = ['name,loss,ext']
  for i in range(32):
    noise = rng.normal(size=2)
    lines.append(f'm{i},{2 - i / 100 + noise[0] / 200:.3f},{0.4 + i / 100 + noise[1] / 200:.3f}')
  path.write_text('\n'.join(lines) + '\n')
  return path


def test_which_way_is_better_is_asked_and_a_falling_loss_is_no_reversal(tmp_path):
  path = losses(tmp_path / 'lower.csv')
  asked = replay(path, '--external_column=ext')
  assert asked.returncode == 1 and '--lower_is_better=loss' in asked.stderr
  result = replay(path, '--external_column=ext', '--lower_is_better=loss')
  assert result.returncode == 0, result.stderr
  assert 'ALARM' not in result.stdout and 'loss     coupled' in result.stdout
  assert 'more is better: ext\nless is better: loss\n' in result.stdout
  # The direction decides: taken the other way, it is the alarm of a reversal.
  other = replay(path, '--external_column=ext', '--higher_is_better=loss')
  assert 'ALARM loss: reversed' in other.stdout


def test_the_log_of_a_loop_names_crashes_and_columns_without_scores(tmp_path):
  path = tmp_path / 'results.tsv'
  lines = ['commit\tval_bpb\tdev_bpb\tmemory_gb\tstatus\tdescription']
  for i in range(4):
    crash = i == 2
    bpb = '0.000000' if crash else f'{1 - i / 100:.6f}'
    lines.append(f'c{i}\t{bpb}\t{bpb}\t{44 + i}\t{"crash" if crash else "keep"}\t"a, b"')
  path.write_text('\n'.join(lines) + '\n')
  result = replay(path, '--external_column=val_bpb', '--lower_is_better=val_bpb,dev_bpb')
  assert result.returncode == 0, result.stderr
  assert '3 candidates in 1 rounds; dev: dev_bpb' in result.stdout
  assert 'memory_gb (no score by its name)' in result.stdout
  assert '1 candidates left out as crashed: lines 4 (status crash)' in result.stdout
  assert 'None could have been raised: too few candidates' in result.stdout
  bare = replay(path, '--external_column=val_bpb', '--dev_columns=val_bpb')
  assert bare.returncode == 1


def test_verdicts_that_hang_on_the_size_of_rounds_say_so_at_every_size(tmp_path):
  """Rounds of 7 to 10 give one verdict on a stream, or each of them says that others differ."""
  path = history(tmp_path / 'h.csv', turns=3)
  outcomes = {}
  warned = {}
  for size in (7, 8, 9, 10):
    result = replay(path, '--external_column=private', f'--round_size={size}')
    assert result.returncode == 0, result.stderr
    for stream in ('north', 'south', 'west', 'overall'):
      line = next(x for x in result.stdout.splitlines() if x.startswith(f'  {stream}: '))
      outcomes.setdefault(stream, set()).add(line.split()[1].rstrip(','))
      warned.setdefault(stream, set()).add('THE SIZE OF ROUNDS MATTERS' in line)
  for stream, found in outcomes.items():
    assert warned[stream] == {len(found) > 1}, (stream, found)
  assert any(len(found) > 1 for found in outcomes.values())


def test_a_table_with_dates_is_replayed_by_the_week(tmp_path):
  lines = ['date,dev,lb']
  for i in range(30):
    lines.append(f'2026-01-{30 - i:02d},{i * 7 % 11},{i * 7 % 11 + i % 3}')
  path = tmp_path / 'h.csv'
  path.write_text('\n'.join(lines) + '\n')
  result = replay(path, '--external_column=lb', '--round_column=date')
  assert result.returncode == 0, result.stderr
  assert "rounds by the week of 'date', in UTC, rows in the order of time" in result.stdout
  assert '(date 2026-W02): 7 candidates' in result.stdout
  assert '  dev: coupled' in result.stdout and '  overall: ' not in result.stdout
