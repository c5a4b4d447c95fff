"""Faults of a real vLLM server, as the evaluator meets them: each is mended by asking again or told
as a failure of the machine, and no answer comes of one. At most two retries.

A reply is broken on its way from the server, once or from then on; a process of the server is
killed or stopped. `make test` runs eight of the forty where the environment is there, `make
vllm-full` all.
"""

import dataclasses
import json
import os
import signal

import httpx2
import pytest
from vllm_served import Fault, gone, other, processes

from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.evaluation.served import ServedSampler
from aevo_jax.evaluation.servers.protocol import RequestError, UnavailableError
from aevo_jax.models.hf import checkpoint

# httpcore2 2.16 leaves a socket open for each attempt at a server that has just been killed.
pytestmark = [
  pytest.mark.vllm,
  pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning'),
  pytest.mark.parametrize('served', ['nemotron_h'], indirect=True),
]

GENERATE, NEW, PROMPTS = '/inference/v1/generate', 8, 6


def replied(change):
  """The server's own reply, changed: change(bytes) or, of a JSON, change(choice) in place."""

  def act(send, request):
    reply = send(request)
    body = json.loads(reply.read())
    change(body)
    return httpx2.Response(200, content=json.dumps(body).encode())

  return act


def choice(change):
  return replied(lambda body: change(body['choices'][0]))


def raises(error, after=False):
  """The connection breaks before the request is sent, or after the server has answered it."""

  def act(send, request):
    if after:
      send(request).read()
    raise error('so it goes', request=request)

  return act


def torn(send, request):
  content = send(request).read()
  return httpx2.Response(200, content=content[: len(content) // 2])


BROKEN = {
  'a reply torn in half': torn,
  'an empty reply': lambda send, request: httpx2.Response(200, content=b''),
  'a page of HTML': lambda send, request: httpx2.Response(200, text='<html>bad gateway</html>'),
  'status 500': lambda send, request: httpx2.Response(500, text='so it goes'),
  'status 503': lambda send, request: httpx2.Response(503, text='busy'),
  'no connection': raises(httpx2.ConnectError),
  'the reply lost': raises(httpx2.RemoteProtocolError, after=True),
  'no reply in time': raises(httpx2.ReadTimeout),
  'another model': replied(lambda body: body.update(model='another')),
  'a token less than its log-probabilities': choice(lambda c: c['token_ids'].pop()),
  'the end of the completion missing': choice(
    lambda c: (
      c['token_ids'].pop(),
      c['logprobs']['content'].pop(),
      c['weight_versions'][-1].update(end=len(c['token_ids'])),
    )
  ),
  'no log-probability for a token': choice(
    lambda c: c['logprobs']['content'][0].update(logprob=-9999.0)
  ),
  'another token than its log-probability': choice(
    lambda c: c['token_ids'].__setitem__(0, c['token_ids'][0] + 1)
  ),
  'an aborted completion': choice(lambda c: c.update(finish_reason='abort')),
  'tokens of older weights': choice(
    lambda c: c.update(
      weight_versions=[{'version': '0' * 64, 'start': 0, 'end': len(c['token_ids'])}]
    )
  ),
}
# What goes wrong while weights are handed over.
CARRIED = {
  'an update that fails': Fault(
    '/update_weights', lambda send, request: httpx2.Response(500, text='so it goes')
  ),
  'an update whose reply is lost': Fault('/update_weights', raises(httpx2.ReadError, after=True)),
  'an update that is swallowed': Fault(
    '/update_weights', lambda send, request: httpx2.Response(200, json={}), lasting=True
  ),
  'a prefix cache that stays': Fault(
    '/reset_prefix_cache', lambda send, request: httpx2.Response(200, json={'success': False})
  ),
  'a stale digest': Fault(
    '/weight_info',
    lambda send, request: httpx2.Response(200, json={'weight_version': '0' * 64}),
    lasting=True,
  ),
}
LASTING = (
  'a reply torn in half',
  'an empty reply',
  'status 500',
  'no connection',
  'the reply lost',
  'no reply in time',
  'another model',
  'the end of the completion missing',
  'an aborted completion',
  'tokens of older weights',
)
PROCESSES = [
  (whom, what, path)
  for whom in ('api_server', 'VLLM::EngineCore')
  for what in ('SIGKILL', 'SIGSTOP')
  for path in ('/update_weights', GENERATE)
] + [('VLLM::Worker', 'SIGKILL', path) for path in ('/update_weights', GENERATE)]
OFTEN = {
  ('a reply torn in half', 'once'),
  ('status 500', 'once'),
  ('another model', 'from then on'),
  ('tokens of older weights', 'from then on'),
  ('an update that is swallowed',),
  ('a stale digest',),
  ('VLLM::EngineCore', 'SIGKILL', GENERATE),
  ('api_server', 'SIGSTOP', GENERATE),
}


def each(*faults):
  return [pytest.param(*f, marks=() if f in OFTEN else pytest.mark.slow) for f in faults]


def answers(sampler, params, served):
  return sampler(params, [r.prompt for r in served.requests(PROMPTS)])


@pytest.fixture
def expected(served):
  """The answers of a server that nobody disturbs."""
  sampler = ServedSampler(served.engine, max_new_tokens=NEW)
  sampler.load(served.path, served.digest, served.params)
  return answers(sampler, served.params, served)


@pytest.mark.parametrize(
  'fault, how', each(*((f, 'once') for f in BROKEN), *((f, 'from then on') for f in LASTING))
)
def test_a_reply_that_is_broken_is_never_an_answer(served, expected, fault, how, record_property):
  """In the midst of an evaluation."""
  with served.attached(retries=2) as engine:
    sampler = ServedSampler(engine, max_new_tokens=NEW)
    sampler.load(served.path, served.digest, served.params)
    served.fault = Fault(GENERATE, BROKEN[fault], nth=3, lasting=how != 'once')
    if how == 'once':
      assert answers(sampler, served.params, served) == expected and len(engine.faults) == 1
    else:
      with pytest.raises(UnavailableError):
        answers(sampler, served.params, served)
      assert len(engine.faults) == 3 and engine.digest == ''  # asked, and twice again
    record_property(
      'outcome',
      (
        f'{"the same answers" if how == "once" else "no answer; told"} after '
        f'{len(engine.faults)} faults: {engine.faults[-1]}'
      ),
    )
    served.fault = None
    sampler.load(served.path, served.digest, served.params)
    assert answers(sampler, served.params, served) == expected


@pytest.mark.parametrize('fault', each(*((f,) for f in CARRIED)))
def test_weights_that_do_not_arrive_whole_answer_nothing(
  served, expected, fault, tmp_path, record_property
):
  path, params = tmp_path / 'model.safetensors', other(served.params, 11, scale=0.3)
  checkpoint.save_weights(path, params, served.config)
  digest = file_digest(path)
  with served.attached(retries=2) as engine:
    sampler = ServedSampler(engine, max_new_tokens=NEW)
    sampler.load(path, digest, params)
    new = answers(sampler, params, served)
    assert new != expected
    sampler.load(served.path, served.digest, served.params)
    assert answers(sampler, served.params, served) == expected
    served.fault = dataclasses.replace(CARRIED[fault])
    if served.fault.lasting:
      with pytest.raises(UnavailableError):
        sampler.load(path, digest, params)
      assert len(engine.faults) == 3 and engine.digest == ''
      for weights in (params, served.params):  # not those before, either
        with pytest.raises(RequestError):
          answers(sampler, weights, served)
    else:
      sampler.load(path, digest, params)
      assert len(engine.faults) == 1 and answers(sampler, params, served) == new
    record_property(
      'outcome',
      (
        f'{"no answer; told" if served.fault.lasting else "the same answers"} after '
        f'{len(engine.faults)} faults: {engine.faults[-1]}'
      ),
    )


@pytest.mark.parametrize('whom, what, path', each(*PROCESSES))
def test_a_process_that_ends_or_hangs_costs_a_restart_and_no_answer(
  served, expected, whom, what, path, monkeypatch, record_property
):
  engine, struck = served.engine, []
  below, starts, faults = processes(engine.server.pid), engine.server.starts, len(engine.faults)
  # After which a server that is silent has failed. Not an argument: an engine that is made with it
  # would start another server.
  monkeypatch.setattr(engine, '_settings', dataclasses.replace(engine._settings, request_s=10.0))
  engine._disconnect()

  def strike(send, request):
    struck.append(next(pid for pid, command in below.items() if whom in command))
    os.kill(struck[0], getattr(signal, what))
    return send(request)

  served.fault = Fault(path, strike, nth=1 if path == '/update_weights' else 5)
  try:
    sampler = ServedSampler(engine, max_new_tokens=NEW)
    sampler.load(served.path, served.digest, served.params)
    assert answers(sampler, served.params, served) == expected
  finally:
    served.fault = None
  assert struck and engine.server.starts == starts + 1 and len(engine.faults) == faults + 1
  gone(below)
  record_property('outcome', f'the same answers after 1 fault: {engine.faults[-1]}')
