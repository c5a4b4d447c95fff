"""The engine at a pretended vLLM server: weights are shown to be there, faults are mended."""

import json

import httpx2
import numpy as np
import pytest

from aevo_jax.config.configurables import check_type
from aevo_jax.config.inference import Evaluation, Vllm
from aevo_jax.generation.protocol import Continuation, Request, Sampling
from aevo_jax.generation.vllm import server as server_lib
from aevo_jax.generation.vllm import sync as sync_lib
from aevo_jax.generation.vllm import transports
from aevo_jax.generation.vllm.client import Client, ReplyError, ServerDownError, WrongWeightsError
from aevo_jax.generation.vllm.engine import VllmEngine
from aevo_jax.generation.vllm.server import Launch
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.params import unbind

EOS = 2
SAMPLING = Sampling(temperature=0.0, max_new_tokens=4)
CONFIG = ModelConfig(
  vocab_size=16,
  hidden_size=16,
  pattern='*-',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=8,
  intermediate_size=16,
)
STRUCTURE, PARAMS = unbind(create(CONFIG, 0))


class Pretended:
  """A server in a few lines that computes with the weights it was told: greedy tokens of the model,
  what a real one gives. `wrong` changes it.
  """

  def __init__(self, **wrong):
    self.digest, self.wrong, self.calls, self.params = 'default', wrong, [], PARAMS
    self.active, self.loaded = (
      False,
      '',
    )  # an update under way, as vLLM's workers keep it; what they loaded last

  def __call__(self, request):
    path = request.url.path
    self.calls.append(path)
    body = json.loads(request.content) if request.content else {}
    if path in self.wrong.get('down', ()):
      return httpx2.Response(500, text='down')
    if path in ('/start_weight_update', '/finish_weight_update'):
      if self.active == (path == '/start_weight_update'):
        return httpx2.Response(500, text='a weight update is already active, or none is')
      self.active = not self.active
    if path == '/update_weights':
      self.loaded = self.wrong.get('loaded', body['update_info']['sha256'])
    if path == '/collective_rpc':
      return httpx2.Response(200, json={'results': [self.loaded, self.loaded]})
    if path == '/update_weight_version':
      self.digest = body['new_version']
    if path == '/finish_weight_update':
      self.digest = self.wrong.get('digest', body['weight_version'])
    if path == '/reset_prefix_cache':
      return httpx2.Response(200, json={'success': self.wrong.get('reset', True)})
    if path == '/weight_info':
      return httpx2.Response(200, json={'weight_version': self.digest})
    if path == '/inference/v1/generate':
      return httpx2.Response(200, json=self.generate(body))
    return httpx2.Response(200, json={})

  def generate(self, body):
    tokens = list(body['token_ids'])
    content_ = []
    for _ in range(body['sampling_params']['max_tokens']):
      logits = np.asarray(
        STRUCTURE.bind(self.params)(np.array([tokens]), np.ones((1, len(tokens)), np.int32)),
        np.float64,
      )[0, -1] / (body['sampling_params']['temperature'] or 1)
      token = int(logits.argmax())
      content_.append(
        {
          'token_id': token,
          'logprob': float(logits[token] - np.log(np.exp(logits).sum()))
          + self.wrong.get('off', 0.0),
        }
      )
      tokens.append(token)
      if token in body['sampling_params'].get('stop_token_ids', ()):
        break
    new = tokens[len(body['token_ids']) :]
    stopped = new[-1] in body['sampling_params'].get('stop_token_ids', ())
    given = body['token_ids']
    logits = np.asarray(
      STRUCTURE.bind(self.params)(np.array([given]), np.ones((1, len(given)), np.int32)), np.float64
    )[0]
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    read_ = [None] + [
      {
        str(t): {'logprob': float(line[t]), 'rank': int((line >= line[t]).sum())}
        for t in (given[k + 1], int(line.argmax()))
      }
      for k, line in enumerate(logprobs[:-1])
    ]
    return {
      'model': body['model'],
      'prompt_token_ids': given,
      'prompt_logprobs': read_ if 'prompt_logprobs' in body['sampling_params'] else None,
      'choices': [
        {
          'token_ids': new,
          'finish_reason': 'stop' if stopped else 'length',
          'logprobs': {'content': content_},
          'weight_versions': [{'version': self.digest, 'start': 0, 'end': len(new)}],
        }
      ],
    }


def engine(pretended, tmp_path, **settings):
  return VllmEngine(
    Vllm(url='http://nowhere', max_model_len=16, **settings),
    model=tmp_path,
    structure=STRUCTURE,
    config=CONFIG,
    eos_ids=[EOS],
    log=tmp_path / 'log',
    launch=Launch(connect=lambda address: httpx2.MockTransport(pretended)),
  )


def test_weights_are_carried_forgotten_compared_and_then_generated_with(tmp_path):
  pretended = Pretended()
  with engine(pretended, tmp_path) as made:
    made.update(PARAMS, 3)
    found = made.generate([Request((3, 4)), Request((5, 6, 7))], SAMPLING)
    assert (
      [c.version for c in found] == [3, 3]
      and {c.digest for c in found} == {made.digest} == {pretended.digest}
      and len(made.digest) == 64
    )
  order = [p for p in pretended.calls if p != '/inference/v1/generate']
  assert order == [
    '/pause',
    '/init_weight_transfer_engine',
    '/start_weight_update',
    '/update_weight_version',
    '/update_weights',
    '/finish_weight_update',
    '/collective_rpc',
    '/reset_prefix_cache',
    '/resume',
    '/weight_info',
  ]
  assert (
    pretended.calls.count('/inference/v1/generate') == len(sync_lib.PROBE_TEMPERATURES) + 2
    and not made.faults
  )


@pytest.mark.parametrize(
  'wrong, said',
  [
    ({'digest': 'old'}, 'announced were'),
    ({'loaded': 'e' * 64}, 'the workers say that they loaded'),
    ({'reset': False}, 'prefix cache was not reset'),
    ({'off': -0.01}, "from JAX's"),
    ({'down': ['/update_weights']}, 'status 500'),
    ({'down': ['/inference/v1/generate']}, 'status 500'),
  ],
)
@pytest.mark.parametrize('retries', [0, 2])
def test_a_server_without_the_weights_generates_nothing(wrong, said, retries, tmp_path):
  with engine(Pretended(**wrong), tmp_path, retries=retries) as made:
    with pytest.raises((ReplyError, WrongWeightsError, ServerDownError), match=said):
      made.update(PARAMS, 0)
    assert made.digest == '' and len(made.faults) == retries + 1
    with pytest.raises((ReplyError, WrongWeightsError, ServerDownError), match=said):
      made.generate([Request((3,))], SAMPLING)


def test_other_weights_than_those_announced_are_found_out_by_the_probe(tmp_path):
  pretended = Pretended()
  pretended.params = {name: value * 1.1 for name, value in PARAMS.items()}
  with (
    engine(pretended, tmp_path, retries=0) as made,
    pytest.raises(WrongWeightsError, match='does not compute with the weights'),
  ):
    made.update(PARAMS, 0)


@pytest.mark.parametrize('at', ['/update_weights', '/finish_weight_update'])
def test_an_update_that_broke_off_at_a_server_that_stays_can_be_begun_again(at, tmp_path):
  pretended, failed = Pretended(), []

  def answer(request):
    if request.url.path == at and not failed:
      failed.append(pretended.digest)
      return httpx2.Response(502)
    return pretended(request)

  with engine(answer, tmp_path) as made:
    made.update(PARAMS, 0)
    assert (
      failed == [transports.BROKEN_OFF]
      and len(made.faults) == 1
      and pretended.digest == made.digest == pretended.loaded
      and not pretended.active
    )


def test_two_clients_in_each_others_way_are_told_that_the_weights_are_not_theirs(tmp_path):
  """Another one ends this one's update and begins its own, whose bytes this one then calls by its
  own name.
  """
  pretended = Pretended()

  def answer(request):
    reply = pretended(request)
    if request.url.path == '/update_weights':
      pretended.loaded = 'b' * 64
    return reply

  with (
    engine(answer, tmp_path, retries=0) as made,
    pytest.raises(WrongWeightsError, match='the workers say that they loaded'),
  ):
    made.update(PARAMS, 0)


def test_what_came_before_a_fault_is_not_asked_for_again(tmp_path):
  pretended, asked = Pretended(), []

  def answer(request):
    body = json.loads(request.content) if request.content else {}
    if request.url.path == '/inference/v1/generate' and body['cache_salt'] != 'aevo-probe':
      asked.append(body['token_ids'][1])
      if asked == [3, 4]:
        return httpx2.Response(502)
    return pretended(request)

  with engine(answer, tmp_path, concurrency=1) as made:
    made.update(PARAMS, 0)
    assert len(made.generate([Request((3, k)) for k in range(3, 6)], SAMPLING)) == 3
  assert len(made.faults) == 1 and asked.count(3) == 1 and asked.count(4) == 2


@pytest.mark.parametrize(
  'requests, sampling, said',
  [
    ([Request(())], SAMPLING, 'prompt 0 has 0 tokens'),
    ([Request((3,)), Request((3,) * 13)], SAMPLING, 'prompt 1 has 13 tokens and asks for 4 more'),
    ([Request((3,))], Sampling(top_k=2), 'leave these out'),
  ],
)
def test_what_cannot_be_asked_is_refused(requests, sampling, said, tmp_path):
  with engine(Pretended(), tmp_path) as made:
    with pytest.raises(RuntimeError, match='has no weights'):
      made.generate([Request((3,))], SAMPLING)
    made.update(PARAMS, 0)
    with pytest.raises(ValueError, match=said):
      made.generate(requests, sampling)


def test_given_tokens_are_scored_by_the_weights_that_were_synced_and_again_after_a_fault(tmp_path):
  pretended, broken = Pretended(), [True]

  def answer(request):
    if (
      request.url.path == '/inference/v1/generate'
      and b'prompt_logprobs' in request.content
      and broken
    ):
      return httpx2.Response(broken.pop() and 502)
    return pretended(request)

  given = [Continuation((3, 4), (5,)), Continuation((7,), (8, 9, 10))]
  with engine(answer, tmp_path) as made:
    with pytest.raises(RuntimeError, match='has no weights'):
      made.score(given)
    made.update(PARAMS, 3)
    found = made.score(given)
    assert (
      len(made.faults) == 1
      and {s.digest for s in found} == {made.digest}
      and [s.version for s in found] == [3, 3]
    )
    for (context, tokens), scored in zip(given, found, strict=True):
      line = np.array([context + tokens])
      ours = np.asarray(STRUCTURE.bind(PARAMS)(line, np.ones_like(line)), np.float64)[
        0, len(context) - 1 : -1
      ]
      np.testing.assert_allclose(
        scored.logprobs,
        [row[t] - np.log(np.exp(row).sum()) for row, t in zip(ours, tokens, strict=True)],
        atol=1e-5,
      )
      assert scored.greedy == tuple(
        bool(row.argmax() == t) for row, t in zip(ours, tokens, strict=True)
      )
    for wrong in (
      Continuation((), (3,)),
      Continuation((3,), ()),
      Continuation((3,) * 12, (4,) * 4),
    ):
      with pytest.raises(
        ValueError, match=r'both need one, and together fewer than vllm.max_model_len = 16'
      ):
        made.score([wrong])


@pytest.mark.parametrize(
  ('bound', 'gap'),
  [
    ({}, 1e-3),
    ({'dtype': 'bfloat16'}, 1.0),
    ({'dtype': 'float16'}, 1.0),
    ({'dtype': 'bfloat16', 'gap': 0.2}, 0.2),
    ({'gap': 1e-4}, 1e-4),
  ],
)
def test_the_probes_gap_is_the_dtypes_unless_it_is_bound(bound, gap):
  assert Vllm(**bound).probe_gap == gap


@pytest.mark.parametrize(
  'field, value',
  [
    ('dtype', 'int8'),
    ('carrier', 'pigeon'),
    ('gap', 0.0),
    ('retries', 3),
    ('url', 'localhost:8000'),
    ('memory', 2.0),
    ('max_model_len', 4),
    ('lora_rank', 8),
  ],
)
def test_settings_that_cannot_be_are_refused(field, value):
  with pytest.raises(ValueError, match=f'vllm.{field}'):
    Vllm(**{field: value})


def test_an_engine_that_is_none_is_refused():
  with pytest.raises(ValueError, match=r"evaluation.engine must be one of \('jax', 'vllm'\)"):
    Evaluation('tgi')
  assert check_type('vllm', str, 'evaluation.engine') == 'vllm'


def test_without_vllm_the_error_says_how_to_get_it(tmp_path):
  with pytest.raises(server_lib.NoVllmError, match='make vllm'):
    VllmEngine(
      Vllm(python=str(tmp_path / 'python')),
      model=tmp_path,
      structure=STRUCTURE,
      config=CONFIG,
      eos_ids=[EOS],
      log=tmp_path / 'log',
    )


def test_an_update_is_begun_on_a_connection_of_its_own(tmp_path):
  """vLLM closes the connection of a request that it fails: nothing may follow on it."""
  asked = []

  def answer(request):
    asked.append((request.url.path, request.headers['connection']))
    if request.url.path == '/start_weight_update' and len(asked) == 2:
      return httpx2.Response(500, text='an update is active')
    return httpx2.Response(200, json={'results': ['d' * 64]})

  client = Client('http://server', timeout=5, concurrency=1, transport=httpx2.MockTransport(answer))
  transports.FileTransport(Vllm(), tmp_path).deliver(
    client, transports.Weights(tmp_path / 'w', 'd' * 64, {})
  )
  client.close()
  assert [path for path, _ in asked[1:4]] == [
    '/start_weight_update',
    '/finish_weight_update',
    '/start_weight_update',
  ] and asked[1][1] == 'close'
