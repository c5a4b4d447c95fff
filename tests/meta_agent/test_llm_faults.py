"""Twelve kinds of fault of a language model's endpoint, twenty variations each, from a real HTTP
server: every one ends in a legal policy.

A faulty endpoint costs a bounded number of requests, a bounded time and what the caps allow;
nothing it sends escapes as an exception, moves what the constitution owns, or brings the key into
the ledger. In half of the variations that do not stall, the last attempt gets a legal reply: then
the model's recipes run, otherwise the statistical agent's policy, to the letter.
"""

import base64
import dataclasses
import functools
import json
import os
import time

import numpy as np
import pytest
from chat_server import RESET, STALL, ChatServer, completion, http
from llm_faults import FAULTS, KEY, LEGAL, SLOW, long_retry_after

from aevo_jax import layout
from aevo_jax.campaign.decisions.round_evidence import round_evidence
from aevo_jax.campaign.decisions.state import CampaignState, TrialState, fold
from aevo_jax.campaign.llm_session import LlmSession
from aevo_jax.campaign.trial.gate import admit, default_values
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.untrusted import parse_untrusted
from aevo_jax.evaluation import scoring
from aevo_jax.evaluation.scoring import ItemResult
from aevo_jax.ledger.append import Ledger, read
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.agents.statistical import Statistical
from aevo_jax.meta_agent.llm import agent, messages
from aevo_jax.meta_agent.llm.chat_client import ChatClient
from aevo_jax.meta_agent.llm.dialogue import Recorded
from aevo_jax.meta_agent.llm.settings import LlmSettings
from aevo_jax.meta_agent.policy import ANCHOR

RECIPE = (layout.root_file('substrate') / 'recipe.gin').read_text()
DEFAULTS = default_values(RECIPE)
VARIATIONS, ATTEMPTS = 20, 2
AXES = {
  'averaging': {'train.ema_decay': {'kind': 'float', 'low': 0.5, 'high': 0.99}},
  'batch': {'train.batch_rows': {'kind': 'choice', 'choices': [2, 4, 8, 16]}},
  'schedule': {
    'optimizer.schedule': {'kind': 'choice', 'choices': ['constant', 'linear', 'cosine', 'wsd']},
    'optimizer.decay_fraction': {
      'kind': 'float',
      'low': 0.1,
      'high': 0.8,
      'when': {'optimizer.schedule': ['wsd']},
    },
  },
}
CHOSEN = [{'train.ema_decay': 0.9}, {'train.batch_rows': 16}]


@functools.cache
def constitution():
  loading.load(
    [str(layout.root_file('constitution.gin'))],
    [
      f'search_space.axes = {AXES}',
      'budget.workers = 3',
      'budget.rounds = 2',
      'llm_rules.token_cap = 600000',
    ],
    search_paths=layout.search_paths(),
  )
  return constitution_lib.from_gin()


@functools.cache
def admitted(overlay: str):
  return admit(overlay, constitution(), RECIPE)


@functools.cache
def situation():
  """History, last policy, and what the statistical agent makes of them."""
  state, policy = CampaignState(), policy_lib.starting(2)
  for worker in range(2):
    trial = state.trials[f'r0w{worker}'] = TrialState(
      f'r0w{worker}', 0, worker, ANCHOR, '', 0, status='sealed', external_scored=True, released=0.5
    )
    trial.dev = scoring.summary(
      [ItemResult('family', 'kind', 'a', i < 50 + worker, i < 50) for i in range(100)], 'strict'
    )
  history = [round_evidence(state, 0, policy, constitution())]
  return history, policy, Statistical().decide(history, policy, constitution(), DEFAULTS, 7)


@pytest.fixture(autouse=True)
def key(monkeypatch):
  monkeypatch.setenv('AEVO_TEST_KEY', KEY)


# A process for each text; the same texts come often.
parsed = functools.cache(parse_untrusted)


def _in_turn(server, answers, request):
  """The answer to the server's latest request."""
  return answers[len(server.requests) - 1]


def settings(server, **fields) -> LlmSettings:
  return LlmSettings(
    **{
      'base_url': server.url,
      'model': 'm',
      'key_variable': 'AEVO_TEST_KEY',
      'timeout_s': 20.0,
      'deadline_s': 40.0,
      'wait_s': 0.0,
      'attempts': ATTEMPTS,
      'max_reply_tokens': 500,
      'price_in': 3.0,
      'price_out': 15.0,
    }
    | fields
  )


class Table:
  """A ledger with its state, and one client."""

  def __init__(self, path, llm: LlmSettings, rules=None):
    self.ledger, self.state, self.llm, self.client, self.rules = (
      Ledger.open(path / 'ledger.jsonl'),
      CampaignState(),
      llm,
      ChatClient(llm),
      rules or constitution().llm_rules,
    )

  def append(self, kind, payload):
    self.state.apply(self.ledger.append(kind, payload))
    spent = self.state.llm_spent
    assert (
      spent['tokens_in'] + spent['tokens_out'] <= self.rules.token_cap
      and spent['money'] <= self.rules.money_cap
    )

  def decide(self, round_: int):
    session = LlmSession(self.client, self.llm, self.rules, self, round_, agent.POLICY)
    history, policy, _ = situation()
    return agent.LlmAgent(session, parsed).decide(history, policy, constitution(), DEFAULTS, 7)


@pytest.mark.parametrize('fault', FAULTS, ids=lambda f: f.__name__)
def test_twenty_variations_of_a_fault_end_in_legal_policies(fault, tmp_path):
  history, before, base = situation()
  slow, digest, recovered = fault in SLOW, constitution().digest(), 0
  with ChatServer(None) as server:
    table = Table(
      tmp_path, settings(server, timeout_s=0.15, attempts=1) if slow else settings(server)
    )
    for variation in range(VARIATIONS):
      rng = np.random.default_rng([variation, FAULTS.index(fault)])
      answers = (
        [fault(rng)] if slow else [fault(rng), completion(LEGAL) if variation % 2 else fault(rng)]
      )
      server.requests.clear()
      server.script = functools.partial(_in_turn, server, answers)
      began = time.monotonic()
      policy = table.decide(variation)
      assert time.monotonic() - began < 10 and len(server.requests) <= table.llm.attempts
      exchanges, cause = table.state.conversation(variation, agent.POLICY)
      assert len(exchanges) == len(server.requests) >= 1
      if variation % 2 and fault not in SLOW and fault is not long_retry_after:
        assert (cause is None) is bool(exchanges[0]['again'] or not exchanges[0]['error'])
      if cause is not None:
        assert policy == base
      else:  # Nothing but a legal reply can have come through, and it was the last.
        assert (
          json.loads(exchanges[-1]['reply'][: len(LEGAL)]) == json.loads(LEGAL)
          and not exchanges[-1]['error']
          and policy.standing == base.standing
        )
        assert [a.changes for a in policy.assignments] == [{}, *CHOSEN] and policy.assignments[
          0
        ] == base.assignments[0]
        recovered += 1
      for assignment in policy.assignments:
        admitted(policy_lib.render_overlay(assignment.overlay))
      replayed = Recorded(table.llm.attempts, exchanges, cause)
      replayer = agent.LlmAgent(replayed, parsed)
      assert replayer.decide(history, before, constitution(), DEFAULTS, 7) == policy
      replayed.check_complete()
    table.ledger.close()
  assert constitution().digest() == digest
  # Half of them get a second, legal answer, except where asking again is pointless or has to wait
  # too long.
  assert recovered == 0 if slow else 2 <= recovered <= VARIATIONS // 2
  text = (tmp_path / 'ledger.jsonl').read_text()
  # 'Zq7Zq7' is a piece of the key shorter than any that is let through.
  assert (
    KEY not in text
    and KEY[:12] not in text
    and 'Zq7Zq7Zq7' not in text
    and base64.b64encode(KEY.encode()).decode()[:20] not in text
  )
  assert fold(read(tmp_path / 'ledger.jsonl')) == table.state


def test_the_server_did_get_the_key(tmp_path):
  """The positive control of the search for the key above."""
  with ChatServer(lambda request: completion(LEGAL)) as server:
    Table(tmp_path, settings(server)).decide(1)
    assert (
      server.requests[0].headers['authorization'] == f'Bearer {KEY}'
      and server.requests[0].path == '/v1/chat/completions'
    )
    assert os.environ['AEVO_TEST_KEY'] == KEY


@pytest.mark.parametrize(
  ('answer', 'counted'),
  [
    (lambda: completion('no'), 2),
    (lambda: http(200, b'no'), 500),
    (lambda: completion('no', {'prompt_tokens': -(10**9), 'completion_tokens': -(10**9)}), 2),
    (lambda: completion('no', (10**12, 10**12)), 2),
    (lambda: [RESET], 500),
  ],
  ids=['no usage', 'no completion', 'negative usage', 'absurd usage', 'reset'],
)
@pytest.mark.parametrize('cap', ['token_cap', 'money_cap'])
def test_no_request_is_sent_that_could_exceed_a_cap(tmp_path, answer, counted, cap):
  """A reply without a possible count is taken as a token a byte, and a missing one as long as could
  be; the cap holds 3.5 requests at their most.
  """
  with ChatServer(lambda request: answer()) as server:
    tokens_in = sum(
      len(m['content'].encode()) + 16
      for m in messages.policy_messages(situation()[0], situation()[2], constitution(), DEFAULTS)
    )

    def size(out):
      return tokens_in + out if cap == 'token_cap' else (3 * tokens_in + 15 * out) / 1e6

    limit = size(500) * 7 / 2
    rules = dataclasses.replace(
      constitution().llm_rules, **{cap: int(limit) if cap == 'token_cap' else limit}
    )
    table = Table(tmp_path, settings(server, attempts=1), rules)
    for round_ in range(8):
      assert table.decide(round_) == situation()[2]
    assert len(server.requests) == 1 + int((limit - size(500)) / size(counted))
    assert table.state.fell_back[7, agent.POLICY].startswith(f'llm_rules.{cap}')


@pytest.mark.parametrize(
  ('answer', 'least'),
  [
    (lambda: http(500, b''), 3),
    (lambda: http(429, b'', 'Retry-After: 0.1'), 2),
    (lambda: [STALL], 1),
  ],
  ids=['errors', 'waits', 'stalls'],
)
def test_a_question_ends_at_its_deadline_however_many_attempts_are_left(tmp_path, answer, least):
  with ChatServer(lambda request: answer()) as server:
    table = Table(
      tmp_path, settings(server, attempts=1000, deadline_s=0.8, timeout_s=20.0, wait_s=0.02)
    )
    began = time.monotonic()
    assert table.decide(1) == situation()[2]
    assert time.monotonic() - began < 3
    assert least <= len(server.requests) < 12  # the wait doubles
