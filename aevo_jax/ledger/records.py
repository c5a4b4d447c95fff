"""Ledger records: one event each, its one text, and the chain of their hashes.

A record is one line of canonical JSON (sorted keys, no spaces, ASCII, no NaN). Its `hash` is the
SHA-256 of the same JSON without the `hash` field, and `prev` is the hash of the record before it,
so that changing, removing or reordering any record breaks the chain at that place. There is exactly
one text per record: a line that parses but is not spelled canonically is refused too, which leaves
no room for duplicate keys or other two-readings tricks.

The chain is not keyed: whoever can rewrite the whole file can forge it. That is what the head file
in `append` is for.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

GENESIS_HASH = '0' * 64

# Every event kind and the payload keys it must carry. Payloads may hold more; a kind that is not
# here is refused.
KINDS: dict[str, frozenset[str]] = {
  kind: frozenset(keys)
  for kind, keys in {
    'campaign_started': ('constitution', 'substrate', 'seed'),
    'round_started': ('round',),
    'policy_written': ('round', 'digest'),
    'trial_assigned': ('trial', 'recipe', 'seed'),
    'trial_started': ('trial',),
    'trial_sealed': ('trial', 'digest'),
    'trial_failed': ('trial', 'cause'),
    'trial_refused': ('trial', 'cause'),
    'trial_interrupted': ('trial', 'cause'),
    'trial_scored': ('trial', 'score'),
    'base_scored': ('score',),
    'external_scored': ('trial',),
    'external_ranked': ('round', 'ranks'),
    'external_released': ('trial', 'score'),
    'thresholds_fixed': ('round', 'thresholds'),
    'concordance_measured': ('round', 'streams'),
    'verdicts_spoken': ('round', 'verdicts'),
    'control_tested': ('round', 'result'),
    'evidence_written': ('round', 'digest'),
    'promotion_decided': ('round', 'promoted'),
    'round_finished': ('round',),
    'final_candidate_scored': ('trial',),
    'final_scored': ('scores',),
    'secrets_revealed': ('secrets',),
    'campaign_finished': (),
    'controller_resumed': (),
    'llm_requested': ('round', 'purpose', 'attempt', 'reserved'),
    'llm_exchange': (
      'round',
      'purpose',
      'attempt',
      'messages',
      'reply',
      'length',
      'digest',
      'error',
      'usage',
    ),
    'agent_fell_back': ('round', 'purpose', 'cause'),
    'submission_exported': ('trial', 'digest'),
    'score_submitted': ('trial', 'score'),
    'scores_waived': ('trials',),
    'campaign_waiting': ('trials',),
    'campaign_paused': ('cause', 'message', 'trials'),
    'budget_exhausted': ('round', 'reason'),
    'note': ('text',),
  }.items()
}


class LedgerError(Exception):
  """Base of every refusal by the ledger."""


class LedgerPayloadError(LedgerError, ValueError):
  """The event cannot be written: unknown kind, missing key, or a value that JSON cannot hold."""


class LedgerCorruptError(LedgerError):
  """The ledger on disk is not the one that was written.

  Attributes:
    seq: the first record that cannot be trusted.
  """

  def __init__(self, seq: int, message: str):
    super().__init__(message)
    self.seq = seq


@dataclasses.dataclass(frozen=True)
class Record:
  """One event.

  Attributes:
    seq: position in the ledger, from 0; the order of events, since clocks run backwards.
    kind: a key of `KINDS`.
    time: in Unix seconds, informative only.
    payload: JSON values, at least the keys of the kind.
    prev: hash of the record before, or `GENESIS_HASH`.
    hash: SHA-256 of the canonical JSON of all other fields.
  """

  seq: int
  kind: str
  time: float
  payload: dict[str, Any]
  prev: str
  hash: str

  def line(self) -> bytes:
    """Returns the record as it lies in the file, newline included."""
    return canonical_json(dataclasses.asdict(self)) + b'\n'


_FIELDS = {field.name for field in dataclasses.fields(Record)}


def canonical_json(value: Any) -> bytes:
  """Writes the one JSON text of a value: sorted keys, no spaces, ASCII.

  Args:
    value: what JSON can hold.

  Raises:
    ValueError: NaN or an infinity.
  """
  return json.dumps(
    value, sort_keys=True, separators=(',', ':'), allow_nan=False, ensure_ascii=True
  ).encode('ascii')


def make_record(seq: int, kind: str, time: float, payload: Mapping[str, Any], prev: str) -> Record:
  """Builds the record after `prev`.

  Args:
    seq: position in the ledger.
    kind: a key of `KINDS`.
    time: in Unix seconds.
    payload: as the caller has it.
    prev: hash of the record before.

  Returns:
    A record with the payload that a later reader will get back (tuples become lists).

  Raises:
    LedgerPayloadError: unknown kind, missing payload key, or a value JSON cannot hold, each named.
  """
  required = KINDS.get(kind)
  if required is None:
    raise LedgerPayloadError(
      f'unknown event kind {kind!r}; add it to ledger.records.KINDS or use one of {sorted(KINDS)}'
    )
  missing = sorted(required - set(payload))
  if missing:
    raise LedgerPayloadError(
      f'a {kind!r} event needs the payload keys {missing}; it has {sorted(map(str, payload))}'
    )
  _check_json(payload, kind)
  # Read back what is written: the caller must see the same values that a resumed controller will
  # see.
  fields = {
    'seq': seq,
    'kind': kind,
    'time': time,
    'payload': json.loads(canonical_json(payload)),
    'prev': prev,
  }
  return Record(**fields, hash=_hash(fields))


def parse_line(line: bytes) -> Record | None:
  """Reads a record.

  Args:
    line: of the file, without its newline.

  Returns:
    The record that the line spells canonically with a matching hash, else None.
  """
  try:
    fields = json.loads(line)
    if not isinstance(fields, dict) or set(fields) != _FIELDS:
      return None
    if canonical_json(fields) != line:
      return None
  # Not JSON, not UTF-8, NaN, an integer of 5,000 digits, or brackets 100,000 deep.
  except (ValueError, RecursionError):
    return None
  typed = (
    type(fields['seq']) is int
    and isinstance(fields['kind'], str)
    and type(fields['time']) in (int, float)
    and isinstance(fields['payload'], dict)
    and isinstance(fields['prev'], str)
  )
  hashed = {name: value for name, value in fields.items() if name != 'hash'}
  if not typed or fields['hash'] != _hash(hashed):
    return None
  return Record(**fields)


def verified_prefix(lines: list[bytes]) -> list[Record]:
  """Reads the records up to, and without, the first that does not continue the chain.

  Args:
    lines: of the file from its start, without their newlines.

  Returns:
    Records with consecutive sequence numbers from 0 and a sound chain of hashes.
  """
  records: list[Record] = []
  prev = GENESIS_HASH
  for seq, line in enumerate(lines):
    record = parse_line(line)
    if record is None or record.seq != seq or record.prev != prev:
      break
    records.append(record)
    prev = record.hash
  return records


def _hash(fields: Mapping[str, Any]) -> str:
  return hashlib.sha256(canonical_json(fields)).hexdigest()


def _check_json(value: Any, where: str) -> None:
  """Refuses what JSON would refuse or, worse, change silently (a key that is not a string)."""
  if isinstance(value, Mapping):
    for key, item in value.items():
      if not isinstance(key, str):
        raise LedgerPayloadError(
          f'{where}: the key {key!r} is a {type(key).__name__}; ledger keys are strings, '
          f'use {str(key)!r}'
        )
      _check_json(item, f'{where}.{key}')
    if not isinstance(value, dict):
      raise LedgerPayloadError(f'{where}: is a {type(value).__name__}; pass dict(...) instead')
  elif isinstance(value, (list, tuple)):
    for index, item in enumerate(value):
      _check_json(item, f'{where}[{index}]')
  elif isinstance(value, float):
    if not math.isfinite(value):
      raise LedgerPayloadError(
        f'{where}: is {value!r}, which JSON cannot hold; record None and the cause in words'
      )
  elif value is not None and not isinstance(value, (str, int)):
    raise LedgerPayloadError(
      f'{where}: is a {type(value).__name__}; convert it to a JSON type first, e.g. with '
      '.item() or .tolist()'
    )
