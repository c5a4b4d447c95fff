"""The ledger on disk: every crash that can happen is recovered, and everything that cannot is
refused.
"""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from aevo_jax.ledger import append
from aevo_jax.ledger.append import Ledger, LedgerBusyError, LedgerWriteError
from aevo_jax.ledger.records import LedgerCorruptError, LedgerError, LedgerPayloadError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'ledger.jsonl'


def fill(path, count=6):
  """A ledger of `count` notes; returns its bytes and the head on disk after each append."""
  heads = []
  with Ledger.open(path) as ledger:
    heads.append(path.with_suffix('.head').read_bytes())
    for number in range(count):
      ledger.append('note', {'text': f'event {number}', 'value': number / 7})
      heads.append(path.with_suffix('.head').read_bytes())
  return path.read_bytes(), heads


@pytest.fixture
def path_in_memory(memory_root):
  """For tests that open a ledger a thousand times: they place crash states themselves, so syncing
  to a disk only costs time.
  """
  with tempfile.TemporaryDirectory(dir=memory_root) as folder:
    yield Path(folder) / 'ledger.jsonl'


def put(path, data, head):
  for stale in path.parent.glob('ledger.torn-*'):
    stale.unlink()
  path.write_bytes(data)
  path.with_suffix('.head').write_bytes(head)


def texts(records):
  return [record.payload['text'] for record in records]


def test_appends_are_durable_ordered_and_chained(path):
  times = iter([5.0, 3.0, 4.0])  # a clock that runs backwards does not matter
  with Ledger.open(path, clock=lambda: next(times)) as ledger:
    first = ledger.append('note', {'text': 'a'})
    assert append.read(path) == [first]
    ledger.append('note', {'text': 'b'})
  with Ledger.open(path, clock=lambda: next(times)) as ledger:
    assert texts(ledger.records) == ['a', 'b']
    ledger.append('note', {'text': 'c'})
  records = append.read(path)
  assert [record.seq for record in records] == [0, 1, 2]
  assert [record.time for record in records] == [5.0, 3.0, 4.0]
  assert [record.prev for record in records[1:]] == [record.hash for record in records[:-1]]
  assert append.verify(path) == []
  head = json.loads(path.with_suffix('.head').read_text())
  assert head == {'seq': 2, 'hash': records[2].hash}


def test_head_can_lie_elsewhere(path, tmp_path):
  head = tmp_path / 'trusted' / 'head'
  head.parent.mkdir()
  with Ledger.open(path, head_path=head) as ledger:
    ledger.append('note', {'text': 'a'})
  assert head.exists() and not path.with_suffix('.head').exists()
  assert len(append.read(path, head_path=head)) == 1
  assert 'missing' in append.verify(path)[0]


def test_a_refused_payload_changes_nothing(path):
  with Ledger.open(path) as ledger:
    ledger.append('note', {'text': 'a'})
    before = path.read_bytes()
    with pytest.raises(LedgerPayloadError, match='nan'):
      ledger.append('note', {'text': float('nan')})
    assert path.read_bytes() == before
    ledger.append('note', {'text': 'b'})
  assert texts(append.read(path)) == ['a', 'b']


def test_cut_at_every_byte_of_the_last_three_records_is_recovered(path_in_memory):
  path = path_in_memory
  data, heads = fill(path)
  ends = [position + 1 for position, byte in enumerate(data) if byte == ord('\n')]
  for last in (3, 4, 5):
    start, end = ends[last - 1], ends[last]
    for cut in range(start, end + 1):
      # What a crash during the append of record `last` leaves: the head still names the record
      # before it.
      put(path, data[:cut], heads[last])
      whole = cut == end
      with Ledger.open(path) as ledger:
        assert len(ledger.records) == last + whole
        ledger.append('note', {'text': 'after'})
      assert texts(append.read(path)) == [f'event {number}' for number in range(last + whole)] + [
        'after'
      ]
      torn = list(path.parent.glob('ledger.torn-*'))
      assert [file.read_bytes() for file in torn] == (
        [data[start:cut]] if start < cut < end else []
      )
      assert all(file.name == f'ledger.torn-{last}' for file in torn)


def test_cut_below_the_head_is_refused_at_every_byte(path_in_memory):
  path = path_in_memory
  data, heads = fill(path)
  ends = [position + 1 for position, byte in enumerate(data) if byte == ord('\n')]
  for cut in range(ends[2], len(data)):
    put(path, data[:cut], heads[-1])
    with pytest.raises(LedgerCorruptError, match=r'vouches for records 0\.\.5') as error:
      Ledger.open(path)
    assert error.value.seq == sum(end <= cut for end in ends)
    assert path.read_bytes() == data[:cut], 'a refused ledger is left as it was found'


def test_blocks_that_reached_the_disk_out_of_order(path_in_memory):
  path = path_in_memory
  data, heads = fill(path)
  start = data.rindex(b'\n', 0, -1) + 1
  record = data[start:]
  for hole in range(1, len(record)):
    put(path, data[:start] + b'\0' * hole + record[hole:], heads[5])
    with Ledger.open(path) as ledger:
      assert len(ledger.records) == 5


def test_middle_edits_are_refused(path_in_memory):
  path = path_in_memory
  data, heads = fill(path)
  generator = random.Random(0)
  for _ in range(200):
    position = generator.randrange(len(data))
    edited = bytearray(data)
    edited[position] ^= 1 << generator.randrange(8)
    put(path, bytes(edited), heads[-1])
    with pytest.raises(LedgerCorruptError) as error:
      Ledger.open(path)
    assert error.value.seq == data[:position].count(b'\n')
    assert str(path) in str(error.value) and 'restore' in str(error.value)
    with pytest.raises(LedgerCorruptError):
      append.read(path, strict=False)
    assert path.read_bytes() == bytes(edited)


@pytest.mark.parametrize(
  'edit',
  [
    lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    lambda lines: [*lines[:2], *lines[3:]],
    lambda lines: [*lines[:3], lines[2], *lines[3:]],
    lambda lines: [*lines, lines[-1]],
    lambda lines: [b'', *lines],
  ],
  ids=['reordered', 'removed', 'doubled', 'last doubled', 'blank line'],
)
def test_whole_line_edits_are_refused(path, edit):
  data, heads = fill(path)
  lines = data.splitlines()
  put(path, b'\n'.join(edit(lines)) + b'\n', heads[-1])
  problems = append.verify(path)
  assert len(problems) == 1 and 'record' in problems[0]


def test_whole_last_lines_deleted_are_detected_by_the_head(path):
  data, heads = fill(path)
  lines = data.splitlines(keepends=True)
  for kept in range(len(lines)):
    put(path, b''.join(lines[:kept]), heads[-1])
    with pytest.raises(LedgerCorruptError, match=f'record {kept} is missing'):
      Ledger.open(path)
  # The positive control: without the head, the shortened chain is perfectly valid.
  put(path, b''.join(lines[:4]), heads[4])
  assert append.verify(path) == []


def test_a_chain_forged_from_the_middle_is_detected_by_the_head(path, tmp_path):
  data, heads = fill(path)
  other = tmp_path / 'other'
  other.mkdir()
  shutil.copy(path, other / path.name)
  lines = data.splitlines(keepends=True)
  put(other / path.name, b''.join(lines[:3]), heads[3])
  with Ledger.open(other / path.name) as forged:
    for number in range(3):
      forged.append('note', {'text': f'forged {number}'})
  put(path, (other / path.name).read_bytes(), heads[-1])
  with pytest.raises(LedgerCorruptError, match='not the one the head vouches for'):
    Ledger.open(path)


def test_lines_added_behind_the_head(path):
  data, heads = fill(path)
  put(path, data, heads[5])  # one record ahead: the crash between ledger and head
  with Ledger.open(path) as ledger:
    assert len(ledger.records) == 6
  assert path.with_suffix('.head').read_bytes() == heads[6]
  put(path, data, heads[4])  # two: nothing explains them
  with pytest.raises(LedgerCorruptError, match='lines were added'):
    Ledger.open(path)
  assert (
    len(append.read(path, strict=False)) == 6
  )  # but a reader beside a running controller sees exactly this


@pytest.mark.parametrize(
  'head', [b'', b'{}', b'{"seq":"x","hash":""}', b'[1]', b'\xff', b'[' * 10_000]
)
def test_damaged_head(path, head):
  fill(path)
  path.with_suffix('.head').write_bytes(head)
  with pytest.raises(LedgerCorruptError, match='head'):
    Ledger.open(path)


def test_missing_files(path):
  with pytest.raises(LedgerCorruptError, match='head'):
    append.read(path)
  data, heads = fill(path)
  path.with_suffix('.head').unlink()
  with pytest.raises(LedgerCorruptError, match=r'head .* is missing'):
    Ledger.open(path)
  put(path, data, heads[-1])
  path.unlink()
  with pytest.raises(LedgerCorruptError, match='record 0 is missing'):
    Ledger.open(path)
  assert not path.exists()
  with pytest.raises(FileNotFoundError):
    Ledger.open(path.parent / 'absent' / 'ledger.jsonl')


def test_a_crash_at_birth_is_no_damage(path):
  _, heads = fill(path, count=0)
  path.unlink()
  path.with_suffix('.head').write_bytes(heads[0])
  with Ledger.open(path) as ledger:
    assert ledger.records == []


def test_strict_and_live_reading_of_a_torn_tail(path):
  data, heads = fill(path)
  put(path, data[:-5], heads[5])
  with pytest.raises(LedgerCorruptError, match='torn'):
    append.read(path)
  assert len(append.read(path, strict=False)) == 5
  assert path.read_bytes() == data[:-5]


def test_two_owners(path):
  with Ledger.open(path) as ledger:
    with pytest.raises(LedgerBusyError, match=str(os.getpid())) as error:
      Ledger.open(path)
    assert error.value.pid == os.getpid()
    ledger.append('note', {'text': 'a'})
    assert len(append.read(path)) == 1  # readers need no lock
  with pytest.raises(LedgerError, match='closed'):
    ledger.append('note', {'text': 'b'})
  Ledger.open(path).close()


def child(code, *arguments):
  text = 'import os, sys, time\nfrom aevo_jax.ledger.append import Ledger\n' + textwrap.dedent(code)
  return subprocess.Popen(
    [sys.executable, '-c', text, *map(str, arguments)],
    env=os.environ | {'PYTHONPATH': str(REPOSITORY)},
    stdout=subprocess.PIPE,
    text=True,
  )


def test_a_killed_owner_leaves_no_lock_even_with_a_forked_child(path):
  owner = child(
    """
        ledger = Ledger.open(sys.argv[1])
        ledger.append("note", {"text": "a"})
        worker = os.fork()
        if not worker:
            time.sleep(60)
            os._exit(0)
        time.sleep(0.2)
        print(worker, flush=True)
        time.sleep(60)
        """,
    path,
  )
  worker = int(owner.stdout.readline())
  with pytest.raises(LedgerBusyError, match=str(owner.pid)):
    Ledger.open(path)
  owner.kill()
  owner.wait()
  owner.stdout.close()
  try:
    with Ledger.open(path) as ledger:
      assert texts(ledger.records) == ['a']
  finally:
    os.kill(worker, 9)


def test_a_hundred_controllers_on_one_ledger_have_one_owner_at_a_time(path):
  code = """
        from aevo_jax.ledger.append import LedgerBusyError
        for number in range(25):
            while True:
                try:
                    with Ledger.open(sys.argv[1]) as ledger:
                        ledger.append("note", {"text": f"{os.getpid()} {number}"})
                        break
                except LedgerBusyError:
                    time.sleep(0.001)
        """
  owners = [child(code, path) for _ in range(4)]
  assert [owner.wait(60) for owner in owners] == [0] * 4
  for owner in owners:
    owner.stdout.close()
  assert sorted(texts(append.read(path))) == sorted(
    f'{owner.pid} {number}' for owner in owners for number in range(25)
  )


def test_kill_at_random_moments_loses_nothing_acknowledged(path):
  generator = random.Random(1)
  acknowledged = 0
  for _ in range(10):
    owner = child(
      """
            with Ledger.open(sys.argv[1]) as ledger:
                while True:
                    print(ledger.append("note", {"text": "x" * 5000}).seq, flush=True)
            """,
      path,
    )
    for _ in range(generator.randrange(1, 20)):
      acknowledged = int(owner.stdout.readline())
    owner.kill()
    acknowledged = max(
      [acknowledged, *(int(line) for line in owner.stdout.read().split('\n')[:-1])]
    )
    owner.wait()
    owner.stdout.close()
    with Ledger.open(path) as ledger:
      assert acknowledged <= len(ledger.records) - 1 <= acknowledged + 1


def test_a_full_disk_mid_append(path):
  data, _ = fill(path)
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  for room in (0, 1, 50, 150):
    with Ledger.open(path) as ledger:
      count = len(ledger.records)
      resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, before[1]))
      try:
        with pytest.raises(LedgerWriteError, match='free space, then resume') as error:
          ledger.append('note', {'text': 'y' * 500})
        assert str(path) in str(error.value)
      finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
      with pytest.raises(LedgerWriteError, match='free space, then resume'):
        ledger.append('note', {'text': 'buried'})  # space is back, but half a line lies in the way
    with Ledger.open(path) as ledger:
      assert len(ledger.records) == count
      ledger.append('note', {'text': 'resumed'})
  assert path.read_bytes().startswith(data) and append.verify(path) == []


@pytest.mark.parametrize('nth', range(7))
@pytest.mark.parametrize('call', ['write', 'fsync', 'open', 'replace'])
def test_the_disk_refuses_the_nth_call(path, monkeypatch, call, nth):
  """Every write, fsync, open and rename of an append and of the recovery after it, refused once
  with ENOSPC.
  """
  data, heads = fill(path, count=3)
  put(path, data[:-3], heads[2])  # a torn tail, so that recovery has work too
  real, calls = getattr(os, call), []

  def refuse(*arguments, **options):
    calls.append(call)
    if len(calls) == nth + 1:
      raise OSError(28, 'No space left on device')
    return real(*arguments, **options)

  # Not an argument: no disk refuses its nth call on demand, and a ledger that takes the system's
  # calls from outside would have them for this test alone.
  monkeypatch.setattr(os, call, refuse)
  acknowledged = []
  try:
    with Ledger.open(path) as ledger:
      for number in range(2):
        acknowledged.append(ledger.append('note', {'text': f'new {number}'}).payload['text'])
  except LedgerWriteError as error:
    assert 'free space, then resume' in str(error)
  monkeypatch.undo()
  with Ledger.open(path) as ledger:
    found = texts(ledger.records)
  assert found[:2] == ['event 0', 'event 1']
  assert found[2:] in (
    acknowledged,
    [*acknowledged, f'new {len(acknowledged)}'],
  )  # the old state or the new, never mixed


@pytest.mark.skipif(os.geteuid() != 0, reason='mounting a small tmpfs needs root')
def test_a_really_full_file_system(tmp_path):
  small = tmp_path / 'small'
  small.mkdir()
  if subprocess.run(
    ['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', small], capture_output=True
  ).returncode:
    pytest.skip('this container may not mount a tmpfs')
  try:
    path = small / 'ledger.jsonl'
    (small / 'ballast').write_bytes(b'0' * 16_384)
    with (
      Ledger.open(path) as ledger,
      pytest.raises(LedgerWriteError, match=r'No space left on device.*free space'),
    ):
      for number in range(1000):
        ledger.append('note', {'text': f'{number} ' + 'z' * 700})
    assert number > 10
    before = path.read_bytes()
    # Recovery needs room too, and says so without harm.
    with pytest.raises(LedgerWriteError), Ledger.open(path) as ledger:
      ledger.append('note', {'text': 'z' * 9000})
    assert path.read_bytes().startswith(before[: before.rindex(b'\n') + 1])
    (small / 'ballast').unlink()
    with Ledger.open(path) as ledger:
      assert number <= len(ledger.records) <= number + 1
      ledger.append('note', {'text': 'resumed'})
    assert append.verify(path) == []
  finally:
    subprocess.run(['umount', '-l', small], check=True)
