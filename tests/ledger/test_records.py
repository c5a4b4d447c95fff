"""A record's text, its refusals, and that parsing accepts nothing but that text."""

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aevo_jax.ledger import records
from aevo_jax.ledger.records import GENESIS_HASH, KINDS, LedgerPayloadError, Record


def test_hash_is_sha256_of_the_text_written_by_hand():
  record = records.make_record(0, 'note', 1.5, {'text': 'hé', 'b': (1, None)}, GENESIS_HASH)
  text = (
    '{"kind":"note","payload":{"b":[1,null],"text":"h\\u00e9"},"prev":"'
    + '0' * 64
    + '","seq":0,"time":1.5}'
  )
  digest = hashlib.sha256(text.encode()).hexdigest()
  assert record == Record(0, 'note', 1.5, {'b': [1, None], 'text': 'hé'}, GENESIS_HASH, digest)
  assert record.line().decode() == text.replace('"kind"', f'"hash":"{digest}","kind"') + '\n'


@pytest.mark.parametrize(
  ('kind', 'payload', 'message'),
  [
    ('promoted', {}, "unknown event kind 'promoted'"),
    ('trial_sealed', {'trial': 'r1w0'}, r"needs the payload keys \['digest'\]"),
    ('note', {'text': float('nan')}, 'note.text: is nan'),
    ('note', {'text': [1, {'a': float('inf')}]}, r'note.text\[1\].a: is inf'),
    ('note', {'text': {1: 'x'}}, 'the key 1 is a int'),
    ('note', {'text': b'x'}, 'is a bytes'),
    ('note', {'text': {1, 2}}, 'is a set'),
    ('note', {'text': object()}, 'is a object'),
  ],
)
def test_payload_refusals(kind, payload, message):
  with pytest.raises(LedgerPayloadError, match=message):
    records.make_record(0, kind, 0.0, payload, GENESIS_HASH)


def test_kinds_cover_a_campaign():
  assert {
    'campaign_started',
    'trial_scored',
    'promotion_decided',
    'secrets_revealed',
    'note',
  } <= KINDS.keys()


JSON = st.recursive(
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats(allow_nan=False, allow_infinity=False)
  | st.text(),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
  max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
  payload=st.dictionaries(st.text(), JSON, max_size=4),
  seq=st.integers(0, 10**6),
  time=st.floats(0, 1e10),
)
def test_what_is_written_is_read(payload, seq, time):
  record = records.make_record(seq, 'note', time, payload | {'text': ''}, GENESIS_HASH)
  assert records.parse_line(record.line()[:-1]) == record
  assert record.payload == payload | {'text': ''}


@settings(max_examples=500, deadline=None)
@given(line=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_foreign_lines_are_not_records(line):
  assert records.parse_line(line) is None


@pytest.mark.parametrize(
  'line', [b'[' * 100_000, b'{"seq":' + b'9' * 5000 + b'}', b'{"seq":NaN}', b'\xff', b'', b'null']
)
def test_hostile_lines_are_not_records(line):
  assert records.parse_line(line) is None


def test_one_text_per_record():
  line = records.make_record(3, 'note', 2.0, {'text': 'a'}, '1' * 64).line()[:-1]
  assert records.parse_line(line) is not None
  assert records.parse_line(line.replace(b'"seq":3', b'"seq": 3')) is None
  assert (
    records.parse_line(line.replace(b'{"hash"', b'{"seq":9,"hash"')) is None
  )  # a duplicate key: two readings
  assert records.parse_line(line.replace(b'"a"', b'"\\u0061"')) is None
  for position in range(len(line)):
    flipped = bytearray(line)
    flipped[position] ^= 1
    assert records.parse_line(bytes(flipped)) is None, position
