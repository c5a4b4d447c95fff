"""A machine below the evaluator or the arbiter that fails with one trial and works with the base:
the trial fails for it, with no score of it in anything, and the campaign goes on. One that fails
with the base too pauses the campaign.
"""

import io
import json
import re

import pytest

from aevo_jax import layout
from aevo_jax.campaign import collaborators
from aevo_jax.campaign.machine.fault import MachineFaultError
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.evaluation.servers import protocol
from aevo_jax.ledger.append import read
from aevo_jax.report.audit import checks


class FailingServer:
  """A server that answers the request of one tag as if its machine had failed."""

  def __init__(self, server, tag):
    self._server = server
    self._tag = tag

  def __getattr__(self, name):
    return getattr(self._server, name)

  def poll(self):
    answer = self._server.poll()
    if answer is None or answer.tag != self._tag:
      return answer
    return answer._replace(reply={'unavailable': 'ServerDownError: so it goes'})


def failing(files, tag):
  """The servers of a campaign, of which that of this tag fails."""
  servers = collaborators.local(files.run, files.settings, files.inputs)
  return {
    'evaluator': FailingServer(servers.evaluator, tag),
    'arbiter': FailingServer(servers.arbiter, tag),
  }


@pytest.mark.parametrize('kind', ['trial_scored', 'external_scored'])
def test_a_trial_whose_scoring_fails_has_no_score_and_the_campaign_goes_on(
  kind, start_tiny_campaign, run_campaign
):
  files = start_tiny_campaign(f'unavailable{kind[:5]}')
  state = run_campaign(files, **failing(files, (kind, 'r1w1')))
  trial = state.trials['r1w1']
  assert state.finished is not None and (
    trial.status,
    trial.cause,
    trial.dev,
    trial.external_scored,
    trial.released,
  ) == ('failed', 'scoring', None, False, None)
  (told,) = [
    t
    for t in json.loads((files.run / 'evidence' / 'round_001.json').read_text())['trials']
    if t['trial'] == 'r1w1'
  ]
  assert (told['status'], told['dev'], told['external']) == ('failed', None, None)
  (record,) = [r for r in read(files.run / 'ledger.jsonl') if r.kind == 'trial_failed']
  assert record.payload['message'] == 'ServerDownError: so it goes' and record.payload['final']
  assert not [f for f in checks.audit(files.run) if f.status == checks.FAILED]


def test_a_base_that_cannot_be_scored_pauses_the_campaign_and_it_can_go_on(
  start_tiny_campaign, run_campaign
):
  files = start_tiny_campaign('unavailablebase')
  with pytest.raises(MachineFaultError, match='engine fails: ServerDownError: so it goes; mend it'):
    run_campaign(files, **failing(files, ('base_scored', 'base')))
  assert run_campaign(files).finished is not None


def test_a_server_tells_what_failed_below_it_from_what_was_wrong_with_a_request():
  def fails(request):
    raise protocol.UnavailableError('no server') from ConnectionError('gone')

  def refuses(request):
    raise protocol.RequestError('no such trial')

  replies = io.StringIO()
  requests = ['{"op": "fails"}', '{"op": "refuses"}']
  protocol.answer({'fails': fails, 'refuses': refuses}, requests, replies)
  assert [json.loads(line) for line in replies.getvalue().splitlines()] == [
    {'unavailable': 'ConnectionError: no server'},
    {'error': 'RequestError: no such trial'},
  ]


@pytest.mark.parametrize(
  'bindings, said',
  [
    pytest.param(
      ["evaluation.engine = 'tgi'"],
      "evaluation.engine must be one of ('jax', 'vllm')",
      id='bindings0-evaluation.engine must be one of jax, vllm',
    ),
    (['vllm.gap = 0.5'], "nothing reads vllm.* while evaluation.engine = 'jax'"),
    (["evaluation.engine = 'vllm'", "vllm.carrier = 'lora'"], 'cannot carry sealed weights'),
    (["evaluation.engine = 'vllm'", "vllm.url = 'http://a:1'"], 'bind both, to different servers'),
    (["evaluation.engine = 'vllm'", "evaluation.arbiter_url = 'http://a:1'"], 'bind both'),
    (
      [
        "evaluation.engine = 'vllm'",
        "vllm.url = 'http://localhost:8000'",
        "evaluation.arbiter_url = 'http://127.0.0.1:8000/'",
      ],
      'bind both, to different servers',
    ),
    (
      [
        "evaluation.engine = 'vllm'",
        "vllm.url = 'unix:/a/s'",
        "evaluation.arbiter_url = 'unix:/a/../a/s'",
      ],
      'bind both, to different servers',
    ),
  ],
)
def test_constitutions_that_cannot_be_are_refused(bindings, said):
  loading.load(
    [str(layout.root_file('constitution.gin'))], bindings, search_paths=layout.search_paths()
  )
  with pytest.raises(ValueError, match=re.escape(said)):
    constitution_lib.from_gin()


def test_a_constitution_says_what_scores_and_stays_what_it_was_without(tmp_path):
  def load(*bindings):
    files = [str(layout.root_file('constitution.gin'))]
    loading.load(files, list(bindings), search_paths=layout.search_paths())
    return constitution_lib.from_gin()

  plain, served = load(), load("evaluation.engine = 'vllm'", 'vllm.max_model_len = 700')
  assert 'evaluation' not in plain.text() and 'vllm' not in plain.text()
  path = tmp_path / 'constitution.gin'
  path.write_text(served.text())
  assert (
    constitution_lib.read(path) == served
    and served.vllm.max_model_len == 700
    and served.digest() != plain.digest()
  )
