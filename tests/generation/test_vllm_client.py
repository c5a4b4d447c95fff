"""The requests to a vLLM server and which of its answers are taken, without one.

An answer must be whole, about the model asked for, and made by the weights asked for.
"""

import copy
import json
import math

import httpx2
import pytest

from aevo_jax.generation.protocol import Completion, Continuation, Request, Sampling, Scored
from aevo_jax.generation.vllm.client import (
  Client,
  ReplyError,
  ServerDownError,
  Source,
  WrongWeightsError,
)

SOURCE = Source('aevo', 'd' * 64, 'd' * 64, 7)
EOS = 2
WHOLE = {
  'model': 'aevo',
  'choices': [
    {
      'token_ids': [5, 6, EOS],
      'finish_reason': 'stop',
      'logprobs': {'content': [{'token_id': t, 'logprob': -0.5} for t in (5, 6, EOS)]},
      'weight_versions': [{'version': 'd' * 64, 'start': 0, 'end': 3}],
    }
  ],
}
SAMPLING = Sampling(temperature=0.0, max_new_tokens=4)


def client(answer):
  """A client whose every request is answered with this: (status, body)."""
  return Client(
    'http://nowhere', timeout=1.0, concurrency=1, transport=httpx2.MockTransport(answer)
  )


def ask(reply, status=200):
  body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
  return client(lambda request: httpx2.Response(status, content=body)).complete(
    Request((3, 4), 9), SAMPLING, SOURCE, eos_ids=[EOS], salt='s'
  )


def changed(**fields):
  reply = copy.deepcopy(WHOLE)
  reply['choices'][0].update(fields)
  return reply


def test_a_whole_answer_is_taken():
  assert ask(WHOLE) == Completion((5, 6, EOS), (-0.5, -0.5, -0.5), 'end', 7, 'd' * 64)


def test_tokens_seeds_and_digests_are_asked_for():
  asked = []

  def answer(request):
    asked.append(json.loads(request.content))
    return httpx2.Response(200, json=WHOLE)

  client(answer).complete(
    Request((3, 4), 9),
    Sampling(temperature=0.7, max_new_tokens=4, stop=('x',)),
    SOURCE,
    eos_ids=[EOS],
    salt='salt',
  )
  (body,) = asked
  assert body['token_ids'] == [3, 4] and body['cache_salt'] == 'salt' and body['model'] == 'aevo'
  assert {
    name: body['sampling_params'][name]
    for name in ('seed', 'temperature', 'max_tokens', 'stop_token_ids', 'stop', 'n')
  } == {
    'seed': 9,
    'temperature': 0.7,
    'max_tokens': 4,
    'stop_token_ids': [EOS],
    'stop': ['x'],
    'n': 1,
  }


def content(*pairs):
  return {'content': [{'token_id': t, 'logprob': p} for t, p in pairs]}


@pytest.mark.parametrize(
  'reply, error',
  [
    (b'', ReplyError),
    (b'{"choices": [', ReplyError),
    (b'null', ReplyError),
    (b'[]', ReplyError),
    ({'choices': []}, ReplyError),
    ({'choices': WHOLE['choices'] * 2}, ReplyError),
    (WHOLE | {'model': 'another'}, ReplyError),
    (changed(token_ids=None), ReplyError),
    (changed(token_ids=[5, 6]), ReplyError),
    (changed(token_ids=[]), ReplyError),
    (changed(token_ids=['5', 6, EOS]), ReplyError),
    (changed(logprobs=None), ReplyError),
    (changed(logprobs={'content': None}), ReplyError),
    (changed(logprobs=content((5, -1), (6, -1))), ReplyError),
    (changed(logprobs=content((5, -1), (7, -1), (EOS, -1))), ReplyError),
    (changed(logprobs=content((5, -1), (6, -9999.0), (EOS, -1))), ReplyError),
    (changed(logprobs=content((5, -1), (6, 0.5), (EOS, -1))), ReplyError),
    (changed(logprobs=content((5, -1), (6, None), (EOS, -1))), ReplyError),
    (changed(logprobs=content((5, -1), (6, math.nan), (EOS, -1))), ReplyError),
    (changed(token_ids=[EOS, 6, EOS], logprobs=content((EOS, -1), (6, -1), (EOS, -1))), ReplyError),
    (changed(finish_reason='abort'), ReplyError),
    (changed(finish_reason=None), ReplyError),
    (changed(finish_reason='length'), ReplyError),
    (changed(finish_reason='error'), ReplyError),
    (changed(token_ids=[5, 6, 8], logprobs=content((5, -1), (6, -1), (8, -1))), ReplyError),
    (changed(weight_versions=None), ReplyError),
    (changed(weight_versions=[]), ReplyError),
    (changed(weight_versions=[{'version': 'd' * 64, 'start': 0, 'end': 2}]), ReplyError),
    (changed(weight_versions=[{'version': 'd' * 64, 'start': 1, 'end': 3}]), ReplyError),
    (changed(weight_versions=[{'version': 'old', 'start': 0, 'end': 3}]), WrongWeightsError),
    (
      changed(
        weight_versions=[
          {'version': 'd' * 64, 'start': 0, 'end': 1},
          {'version': 'old', 'start': 1, 'end': 3},
        ]
      ),
      WrongWeightsError,
    ),
    (changed(weight_versions=[{'version': 'default', 'start': 0, 'end': 3}]), WrongWeightsError),
  ],
)
def test_anything_else_is_refused(reply, error):
  with pytest.raises(error):
    ask(reply)


@pytest.mark.parametrize(
  'status, error',
  [
    (500, ServerDownError),
    (503, ServerDownError),
    (404, ReplyError),
    (400, ReplyError),
    (302, ReplyError),
  ],
)
def test_a_status_says_whether_the_server_or_the_request_is_at_fault(status, error):
  with pytest.raises(error, match=f'status {status}'):
    ask(WHOLE, status)


@pytest.mark.parametrize(
  'fault', [httpx2.ConnectError, httpx2.ReadTimeout, httpx2.RemoteProtocolError, httpx2.ReadError]
)
def test_a_connection_that_fails_is_a_server_that_is_down(fault):
  def answer(request):
    raise fault('so it goes')

  with pytest.raises(ServerDownError, match='so it goes'):
    client(answer).complete(Request((3, 4)), SAMPLING, SOURCE, eos_ids=[EOS], salt='s')


GIVEN = Continuation((3, 4), (5, 6))
READ = {
  'model': 'aevo',
  'prompt_token_ids': [3, 4, 5, 6],
  'prompt_logprobs': [
    None,
    {'4': {'logprob': -9.0, 'rank': 3}},
    {'5': {'logprob': -2.0, 'rank': 4}, '9': {'logprob': -0.5, 'rank': 1}},
    {'6': {'logprob': -0.25, 'rank': 1}},
  ],
  'choices': [
    {
      'token_ids': [8],
      'finish_reason': 'length',
      'logprobs': {'content': [{'token_id': 8, 'logprob': -0.5}]},
      'weight_versions': [{'version': 'd' * 64, 'start': 0, 'end': 1}],
    }
  ],
}


def read(reply):
  return client(lambda request: httpx2.Response(200, json=reply)).score(GIVEN, SOURCE, salt='s')


def reread(at, place):
  places = copy.deepcopy(READ['prompt_logprobs'])
  places[at] = place
  return READ | {'prompt_logprobs': places}


def test_given_tokens_are_scored():
  assert read(READ) == Scored((-2.0, -0.25), (False, True), 7, 'd' * 64)
  tied = reread(2, {'5': {'logprob': -0.5, 'rank': 2}, '9': {'logprob': -0.5, 'rank': 1}})
  assert read(tied).greedy == (True, True)


@pytest.mark.parametrize(
  'reply, error',
  [
    (WHOLE, ReplyError),
    (READ | {'prompt_logprobs': None}, ReplyError),
    (READ | {'prompt_logprobs': READ['prompt_logprobs'][1:]}, ReplyError),
    (READ | {'prompt_token_ids': [3, 4, 5, 7]}, ReplyError),
    (READ | {'prompt_token_ids': None}, ReplyError),
    (READ | {'model': 'another'}, ReplyError),
    (READ | {'choices': []}, ReplyError),
    (reread(3, None), ReplyError),
    (reread(3, {}), ReplyError),
    (reread(3, {'7': {'logprob': -1.0, 'rank': 1}}), ReplyError),
    (reread(3, {'6': {'logprob': -9999.0, 'rank': 1}}), ReplyError),
    (reread(3, {'6': {'logprob': 0.5, 'rank': 1}}), ReplyError),
    (reread(3, {'6': {'logprob': None, 'rank': 1}}), ReplyError),
    (reread(3, {'6': {'logprob': -1.0, 'rank': 2}}), ReplyError),
    (
      READ
      | {
        'choices': [
          READ['choices'][0] | {'weight_versions': [{'version': 'old', 'start': 0, 'end': 1}]}
        ]
      },
      WrongWeightsError,
    ),
  ],
)
def test_scores_that_are_not_of_these_tokens_and_weights_are_refused(reply, error):
  with pytest.raises(error):
    read(reply)
