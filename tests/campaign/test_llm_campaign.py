"""Campaigns with a language model: what is answered is not asked again, every reply is in the
ledger, and the audit decides everything again from there.

The first tests run the controller with stand-ins for workers (see test_controller), the last ones
two real campaigns of the tiny size.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib

import pytest
from chat_server import ChatServer, completion, http
from stand_ins import Killed, trains

from aevo_jax.campaign.decisions.decisions import FINAL
from aevo_jax.config.statements import parse_statements
from aevo_jax.config.untrusted import parse_untrusted
from aevo_jax.ledger.append import read
from aevo_jax.ledger.records import GENESIS_HASH, canonical_json, make_record
from aevo_jax.meta_agent.llm.settings import LlmSettings
from aevo_jax.report.audit import checks

KEY = 'sk-' + 'Zq7' * 14


@pytest.fixture(autouse=True)
def key(monkeypatch):
  monkeypatch.setenv('AEVO_TEST_KEY', KEY)


# A process for each text; the same texts come often.
parsed = functools.cache(parse_untrusted)


def honest(request) -> bytes:
  """Explorers get rates of their own; a worker multiplies the one it was assigned by 1.5."""
  facts = json.loads(request.body['messages'][1]['content'])
  if facts['question'] == 'worker':
    assert 'evidence' not in facts and list(facts['search_space']) == ['update_rule']
    rate = facts['assigned']['optimizer.learning_rate']
    return completion(
      json.dumps(
        {'bindings': f'optimizer.learning_rate = {rate * 1.5!r}', 'reason': 'half as much again'}
      ),
      (30, 3),
    )
  made = [
    {'bindings': f'optimizer.learning_rate = {0.001 * (i + 1)!r}', 'reason': f'rate {i}'}
    for i in range(facts['explorers'])
  ]
  text = json.dumps(
    {
      'assignments': made,
      'promote': [{'bindings': {'train.batch_rows': 16}, 'reason': 'it must help'}],
      'sentences': ['Rates come first.'],
    }
  )
  return completion(f'Here it is:\n```json\n{text}\n```\nGood luck!', (100, 10))


def garbage(request) -> bytes:
  """Something else each time, the key among it."""
  replies = [
    completion('I would rather not.'),
    completion(json.dumps({'assignments': [{'bindings': 'promotion.min_gain = 0.0'}]})),
    http(500, b'<html>'),
    completion(f'{KEY} is mine'),
    http(401, KEY.encode()),
  ]
  return replies[len(request.body['messages'][-1]['content']) % len(replies)]


def questions(records, kind='llm_exchange') -> list[tuple[int, str, int]]:
  return [
    (r.payload['round'], r.payload['purpose'], r.payload['attempt'])
    for r in records
    if r.kind == kind
  ]


def llm(server, **fields) -> dict:
  return {
    'agent': 'llm',
    'workers_choose': 'llm',
    'llm': dataclasses.asdict(
      LlmSettings(
        base_url=server.url,
        model='m',
        key_variable='AEVO_TEST_KEY',
        wait_s=0.0,
        attempts=2,
        max_reply_tokens=500,
        price_in=1.0,
        **fields,
      )
    ),
  }


def test_the_models_bindings_run_and_their_cost_is_in_the_evidence(launch):
  launch.collaborators['parser'] = parsed
  with ChatServer(honest) as server:
    state, records = launch(trains, **llm(server))
  assert state.finished is not None and not state.fell_back
  # Policies and two explorers of the rounds that are run; nobody runs the explorers of the policy
  # after the last one.
  assert sorted(questions(records)) == sorted(
    [(r, 'policy', 0) for r in (1, 2)] + [(r, f'worker {w}', 0) for r in (1, 2) for w in (1, 2)]
  )
  for worker, rate in enumerate((0.0015, 0.003), start=1):
    assert {
      b.selector: b.value for b in parse_statements(state.trials[f'r1w{worker}'].overlay)
    } == {'optimizer.learning_rate': pytest.approx(rate)}
  evidence = json.loads((launch.run / 'evidence' / 'round_001.json').read_text())
  assert evidence['llm'] == {
    'tokens_in': 100 + 2 * 30,
    'tokens_out': 10 + 2 * 3,
    'money': pytest.approx(160 / 1e6),
  }
  assert (
    evidence['trials'][1]['changes'] == {'optimizer.learning_rate': pytest.approx(0.0015)}
    and evidence['trials'][0]['changes'] == {}
  )
  policy = state.policies[1]['policy']
  assert (
    policy['assignments'][1]['changes'] == {'optimizer.learning_rate': 0.001}
    and policy['standing'] == {}
  )
  assert (
    policy['reasons'][0].startswith(
      'the model proposes to promote train.batch_rows = 16 (it must help)'
    )
    and policy['reasons'][1] == 'the model: Rates come first.'
  )


def test_a_stop_after_every_record_asks_nothing_twice_and_forgets_no_tokens(launch):
  launch.collaborators['parser'] = parsed
  stopped_at = set()

  def observer(record):
    event = record and (
      record.kind,
      record.payload.get('trial'),
      record.payload.get('round'),
      record.payload.get('purpose'),
      record.payload.get('attempt'),
    )
    if record is not None and record.kind != 'controller_resumed' and event not in stopped_at:
      stopped_at.add(event)
      raise Killed

  with ChatServer(
    lambda request: honest(request) if len(server.requests) % 3 else completion('no', (7, 1))
  ) as server:
    while True:
      try:
        state, records = launch(trains, observer, **llm(server))
        break
      except Killed:
        assert len(stopped_at) < 200
    asked = questions(records)
    assert len(asked) == len(set(asked)) == len(server.requests) > 6
  # Each request was announced, then the controller was stopped before it was sent; the first
  # announcement stays spent at its most.
  announced = collections.Counter(questions(records, 'llm_requested'))
  assert set(announced) == set(asked) and set(announced.values()) == {2}
  most = [r.payload['reserved'] for r in records if r.kind == 'llm_requested']
  used = [r.payload['usage'] for r in records if r.kind == 'llm_exchange']
  assert state.llm_spent['tokens_in'] == sum(m['tokens_in'] for m in most) / 2 + sum(
    u['tokens_in'] for u in used
  )


# -- real campaigns --------------------------------------------------------------------------------


def bindings(server) -> list[str]:
  return [
    "campaign.agent = 'llm'",
    "campaign.workers_choose = 'llm'",
    f"llm.base_url = '{server.url}'",
    "llm.model = 'm'",
    "llm.key_variable = 'AEVO_TEST_KEY'",
    'llm.wait_s = 0.0',
    'llm.attempts = 2',
    'llm.max_reply_tokens = 500',
    "search_space.axes = {'update_rule': {'optimizer.learning_rate': {'kind': 'float', "
    "'low': 5e-5, 'high': 5e-3, 'scale': 'log'}},"
    "'averaging': {'train.batch_rows': {'kind': 'choice', 'choices': [2, 4, 8, 16]}}}",
  ]


def failed(run: pathlib.Path) -> set[str]:
  return {f.check for f in checks.audit(run, parse=parsed) if f.status == checks.FAILED}


def forge(run: pathlib.Path, rewrite, change) -> None:
  """Rewrites the ledger with change(payload) of every record as a valid chain with a valid head."""
  chained = []
  for record in read(run / 'ledger.jsonl'):
    chained.append(
      make_record(
        len(chained),
        record.kind,
        record.time,
        change(record),
        chained[-1].hash if chained else GENESIS_HASH,
      )
    )
  rewrite(run / 'ledger.jsonl', b''.join(r.line() for r in chained))
  rewrite(
    run / 'ledger.head', canonical_json({'seq': chained[-1].seq, 'hash': chained[-1].hash}) + b'\n'
  )


def other_reply(purpose: str, old: str, new: str):
  """A change for `forge`: other words of the model about round 1, with the digest and length that
  they have.
  """

  def change(record):
    p = record.payload
    if record.kind != 'llm_exchange' or (p['round'], p['purpose']) != (1, purpose):
      return p
    assert old in p['reply']
    text = p['reply'].replace(old, new)
    return p | {
      'reply': text,
      'length': len(text.encode()),
      'digest': hashlib.sha256(text.encode()).hexdigest(),
    }

  return change


def holds_the_key(run: pathlib.Path) -> list[pathlib.Path]:
  return [p for p in run.rglob('*') if p.is_file() and KEY.encode() in p.read_bytes()]


def test_a_real_campaign_of_garbage_finishes_under_the_statistical_agent_and_passes_its_audit(
  start_tiny_campaign, run_campaign
):
  with ChatServer(garbage) as server:
    files = start_tiny_campaign('garbage', *bindings(server))
    state = run_campaign(files, parser=parsed)
  records = read(files.run / 'ledger.jsonl')
  assert state.finished is not None and {t.status for t in state.trials.values()} == {'sealed'}
  assert (
    set(state.fell_back) == {(1, 'policy'), (1, 'worker 1')}
    and len(questions(records)) == len(server.requests) >= 2
  )
  assert state.policies[1]['policy']['assignments'][1]['reason'].startswith(
    'expected '
  )  # the statistical agent's words
  found = {f.check: f for f in checks.audit(files.run, parse=parsed)}
  assert tuple(found) == checks.CHECKS and {f.status for f in found.values()} <= {
    checks.OK,
    checks.WARNING,
  }
  assert f'{len(server.requests)} exchanges, 2 questions given up' in found['transcript'].detail
  assert holds_the_key(files.run) == [] and server.requests[0].headers['authorization'].endswith(
    KEY
  )


def test_a_real_campaign_runs_what_an_honest_model_says_and_a_forged_reply_fails_its_audit(
  start_tiny_campaign, run_campaign, rewrite
):
  with ChatServer(honest) as server:
    files = start_tiny_campaign('honest', *bindings(server))
    state = run_campaign(files, parser=parsed)
  trial = state.trials['r1w1']
  assert (
    trial.status == 'sealed'
    and 'optimizer.learning_rate = 0.0015'
    in (files.run / 'trials' / 'r1w1' / 'recipe.gin').read_text()
  )
  assert len([t for t in state.trials.values() if t.round == FINAL]) == 2 and not state.fell_back
  assert failed(files.run) == set() and holds_the_key(files.run) == []

  kept = [(files.run / name).read_bytes() for name in ('ledger.jsonl', 'ledger.head')]
  for purpose, old, new, caught in [
    ('policy', '0.001', '0.002', {'policies'}),
    ('policy', 'Rates', 'Dates', {'policies'}),
    ('worker 1', '0.0015', '0.0016', {'recipes', 'evidence'}),
    ('policy', '"assignments"', '"assignment"', {'policies', 'transcript'}),
  ]:
    forge(files.run, rewrite, other_reply(purpose, old, new))
    assert caught <= failed(files.run), (purpose, new)
    for name, data in zip(('ledger.jsonl', 'ledger.head'), kept, strict=True):
      rewrite(files.run / name, data)
  text = (files.run / 'ledger.jsonl').read_text()
  rewrite(files.run / 'ledger.jsonl', text.replace('Good luck', 'Bad  luck'))
  assert 'ledger' in failed(files.run)
  rewrite(files.run / 'ledger.jsonl', text)
