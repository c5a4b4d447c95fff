"""The ledger file on disk: one owner, durable appends, recovery of a torn tail.

Opening takes an exclusive lock (`ledger.lock`, held by the kernel and so gone with its owner, also
after kill -9), reads the chain and compares it with the head: a small file that holds the sequence
number and hash of the last acknowledged record. The head lies outside every sandbox and is replaced
atomically *after* the record is on disk. So after a crash

    ledger = head + at most one record, whole or torn

and nothing else. A torn record was never acknowledged: its bytes are set aside in
`ledger.torn-<seq>` and cut off. A whole one is kept and the head follows. Every other difference
(an edited, reordered, missing or additional record, a file cut by whole lines, a missing head) is
refused, because no crash explains it.

An append is: write the line, fsync, write the new head beside the old, fsync, rename, fsync the
directory. If the disk is full at any of these, the error says so and the next `Ledger.open` sorts
it out by the same rule.
"""

import errno
import fcntl
import json
import os
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from aevo_jax.ledger import records as records_lib
from aevo_jax.ledger.records import GENESIS_HASH, LedgerCorruptError, LedgerError, Record


class LedgerBusyError(LedgerError):
  """Another process owns the ledger.

  Attributes:
    pid: the owner's process id as it wrote it into the lock file, or None.
  """

  def __init__(self, path: Path, pid: int | None):
    super().__init__(f'{path} is owned by process {pid}; wait for it or stop it, then resume')
    self.pid = pid


class LedgerWriteError(LedgerError, OSError):
  """The disk refused an append.

  The record may or may not be there: only a newly opened ledger can tell.
  """


class _Head(NamedTuple):
  """Sequence number and hash of the last acknowledged record; -1 and GENESIS_HASH before any."""

  seq: int
  hash: str


class Ledger:
  """The single writer of a ledger.

  Made by `Ledger.open`; a context manager that releases the lock at its end.
  """

  def __init__(self, path: Path, head_path: Path, lock: int, clock: Callable[[], float]):
    self.path = path
    self.head_path = head_path
    self.records: list[Record] = []
    self._lock = lock
    self._clock = clock
    self._file = -1
    self._failed = False

  @classmethod
  def open(
    cls,
    path: str | os.PathLike,
    *,
    head_path: str | os.PathLike | None = None,
    clock: Callable[[], float] = time.time,
  ) -> Self:
    """Takes ownership of a ledger, recovers a torn tail and verifies the whole chain.

    Args:
      path: the `ledger.jsonl`, made if absent; its directory exists.
      head_path: where the head lies; no worker may be able to write it. Default: `ledger.head`
        beside the ledger.
      clock: gives Unix seconds for `Record.time`.

    Raises:
      LedgerBusyError: another process owns it.
      LedgerCorruptError: the file is not what was written, beyond what a crash explains; nothing is
        changed.
      LedgerWriteError: recovery needed disk space that is not there.
    """
    path = Path(path)
    ledger = cls(path, _head_path(path, head_path), _take_lock(path), clock)
    try:
      ledger._load()
    except BaseException:
      ledger.close()
      raise
    _open_ledgers.add(ledger)
    return ledger

  def append(self, kind: str, payload: Mapping[str, Any]) -> Record:
    """Adds one event and returns it once it is durable.

    Args:
      kind: a key of records.KINDS.
      payload: the keys of that kind, and more; values that JSON can hold.

    Returns:
      The record as a later reader will get it.

    Raises:
      LedgerPayloadError: the kind or payload is not acceptable; the ledger is unchanged and usable.
      LedgerWriteError: the disk refused; open the ledger again before anything else.
    """
    if self._file < 0:
      raise LedgerError(
        f'{self.path} is closed in this process; only the process that opened it appends'
      )
    if self._failed:
      raise LedgerWriteError(
        f'an earlier append to {self.path} failed; free space, then resume (Ledger.open '
        'recovers it)'
      )
    prev = self.records[-1].hash if self.records else GENESIS_HASH
    record = records_lib.make_record(len(self.records), kind, self._clock(), payload, prev)
    try:
      _write_all(self._file, record.line())
      os.fsync(self._file)
      _write_head(self.head_path, _Head(record.seq, record.hash))
    except OSError as error:
      # A second append after half a line would bury the torn bytes in the middle of the file.
      self._failed = True
      raise _write_error(self.path, error) from error
    self.records.append(record)
    return record

  def recover(self) -> None:
    """Reads the ledger again, as `open` does, under the same lock; appends then work again.

    Raises:
      LedgerCorruptError, LedgerWriteError: see `open`.
    """
    if self._file >= 0:
      os.close(self._file)
      self._file = -1
    self._load()
    self._failed = False

  def close(self) -> None:
    """Releases the lock. Closing twice is fine."""
    for descriptor in (self._file, self._lock):
      if descriptor >= 0:
        os.close(descriptor)
    self._file = self._lock = -1

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def _load(self) -> None:
    try:
      # The head is made first: afterwards a ledger without a head can only mean that someone
      # removed it.
      if not self.head_path.exists() and not self.path.exists():
        _write_head(self.head_path, _Head(-1, GENESIS_HASH))
      head = _read_head(self.head_path)
      data = self.path.read_bytes() if self.path.exists() else b''
      self.records, torn = _check(data, head, self.path)
      self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
      _fsync_directory(self.path.parent)
      if torn:
        _set_aside(self.path.with_name(f'{self.path.stem}.torn-{len(self.records)}'), torn)
        os.ftruncate(self._file, len(data) - len(torn))
        os.fsync(self._file)
      if len(self.records) - 1 > head.seq:
        last = self.records[-1]
        os.fsync(self._file)  # the crash may have come before the fsync of this record
        _write_head(self.head_path, _Head(last.seq, last.hash))
    except OSError as error:
      raise _write_error(self.path, error) from error


def read(
  path: str | os.PathLike, *, head_path: str | os.PathLike | None = None, strict: bool = True
) -> list[Record]:
  """Reads the verified records of a ledger; takes no lock and changes nothing.

  Args:
    path: the `ledger.jsonl`.
    head_path: as in `Ledger.open`.
    strict: True for a ledger at rest (audit): a torn tail is an error. False for one that a
      controller may be writing (progress, report): an unfinished last line is left out and the head
        may lag behind by any number of records.

  Raises:
    LedgerCorruptError: the first record that cannot be trusted, and what to do.
    FileNotFoundError: there is no ledger.
  """
  path = Path(path)
  # Head before ledger: a controller that appends in between only makes the ledger longer than the
  # head says.
  head = _read_head(_head_path(path, head_path))
  records, torn = _check(path.read_bytes(), head, path, live=not strict)
  if torn and strict:
    seq = len(records)
    raise LedgerCorruptError(
      seq,
      f'{path}: record {seq} is torn; resume the campaign, which sets the torn bytes '
      'aside, or read with strict=False',
    )
  return records


def verify(path: str | os.PathLike, *, head_path: str | os.PathLike | None = None) -> list[str]:
  """Checks a ledger at rest.

  Args:
    path: the `ledger.jsonl`.
    head_path: as in `Ledger.open`.

  Returns:
    What is wrong, in sentences; empty if nothing is.
  """
  try:
    read(path, head_path=head_path)
  except (LedgerCorruptError, FileNotFoundError) as error:
    return [str(error)]
  return []


def default_head_path(path: Path) -> Path:
  """Returns `ledger.head` beside `ledger.jsonl`."""
  return path.with_suffix('.head')


def _head_path(path: Path, head_path: str | os.PathLike | None) -> Path:
  return default_head_path(path) if head_path is None else Path(head_path)


def _check(data: bytes, head: _Head, path: Path, live: bool = False) -> tuple[list[Record], bytes]:
  """Splits a file into verified records and the torn bytes after them; may find it corrupt."""
  lines = data.split(b'\n')
  # What follows the last newline is never a finished record.
  records = records_lib.verified_prefix(lines[:-1])
  good = sum(len(line) + 1 for line in lines[: len(records)])
  rest = data[good:]
  seq = len(records)
  remedy = 'restore the run directory from a copy; never edit a ledger by hand'
  if seq - 1 < head.seq:
    what = 'is damaged or was edited' if rest else 'is missing'
    raise LedgerCorruptError(
      seq, f'{path}: record {seq} {what}, but the head vouches for records 0..{head.seq}; {remedy}'
    )
  if head.seq >= 0 and records[head.seq].hash != head.hash:
    raise LedgerCorruptError(
      head.seq,
      f'{path}: record {head.seq} is not the one the head vouches for (the chain was '
      f'rewritten); {remedy}',
    )
  # A crash leaves one unacknowledged record, whole or torn. Data blocks can reach the disk out of
  # order, so a torn one may end in a newline with zeros before it.
  unacknowledged = seq - 1 - head.seq + bool(rest)
  if b'\n' in rest[:-1] or (unacknowledged > 1 and not live):
    raise LedgerCorruptError(
      seq,
      f'{path}: more follows record {head.seq}, the last the head vouches for, than one '
      f'interrupted append explains (record {seq} was edited or lines were added); {remedy}',
    )
  return records, rest


def _take_lock(path: Path) -> int:
  lock_path = path.with_suffix('.lock')
  try:
    descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
  except OSError as error:
    raise _write_error(lock_path, error) from error
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
  except BlockingIOError:
    owner = os.pread(descriptor, 32, 0).decode('ascii', 'replace')
    os.close(descriptor)
    raise LedgerBusyError(path, int(owner) if owner.isdigit() else None) from None
  except OSError as error:
    os.close(descriptor)
    raise _write_error(lock_path, error) from error
  return descriptor


def _read_head(path: Path) -> _Head:
  try:
    head = json.loads(path.read_bytes())
    return _Head(int(head['seq']), str(head['hash']))
  except FileNotFoundError:
    raise LedgerCorruptError(
      0,
      f'the ledger head {path} is missing: without it a shortened ledger cannot be told '
      'from a whole one; restore it from a copy',
    ) from None
  except (ValueError, KeyError, TypeError, RecursionError):
    raise LedgerCorruptError(
      0, f'the ledger head {path} is not readable as one; restore it from a copy'
    ) from None


def _write_head(path: Path, head: _Head) -> None:
  temporary = path.with_name(path.name + '.new')
  descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
  try:
    _write_all(descriptor, records_lib.canonical_json(head._asdict()) + b'\n')
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
  os.replace(temporary, path)
  _fsync_directory(path.parent)


def _set_aside(path: Path, torn: bytes) -> None:
  """Keeps torn bytes for the curious; an earlier tear at the same record keeps its own file."""
  number = 0
  target = path
  while target.exists() and target.read_bytes() != torn:
    number += 1
    target = path.with_name(f'{path.name}.{number}')
  descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
  try:
    _write_all(descriptor, torn)
    os.fsync(descriptor)
  except OSError:
    target.unlink()  # half a copy of torn bytes would only mislead; the ledger still holds them all
    raise
  finally:
    os.close(descriptor)
  _fsync_directory(path.parent)


def _write_all(descriptor: int, data: bytes) -> None:
  view = memoryview(data)
  while view:
    # A disk that fills up writes a part first and fails the next time.
    view = view[os.write(descriptor, view) :]


def _fsync_directory(path: Path) -> None:
  descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _write_error(path: Path, error: OSError) -> OSError:
  if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
    return LedgerWriteError(
      error.errno, f'{error.strerror} while writing the ledger; free space, then resume', str(path)
    )
  if error.errno in (errno.EIO, errno.EROFS):
    return LedgerWriteError(
      error.errno,
      f'{error.strerror} while writing the ledger; mend the disk, then resume',
      str(path),
    )
  return error  # a missing directory or a refused permission says it well enough itself


# A forked child inherits the lock's file description and would keep the ledger locked after its
# owner has died.
_open_ledgers: 'weakref.WeakSet[Ledger]' = weakref.WeakSet()


def _close_in_child() -> None:
  for ledger in list(_open_ledgers):
    ledger.close()


os.register_at_fork(after_in_child=_close_in_child)
