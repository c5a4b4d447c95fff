"""A real vLLM server (`make vllm`): weights in place, and its faults. `make test` runs what is not slow of this where the environment is there; `make vllm-full` all.

One server of each model serves the module, and is begun again by the engine where a test broke it.
"""

import contextlib
import dataclasses
import gc
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import httpx2
import jax
import numpy as np
import pytest

from aevo_jax import layout
from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.config.inference import Vllm
from aevo_jax.generation.protocol import Request, Sampling
from aevo_jax.generation.sampler import Sampler
from aevo_jax.generation.vllm import sync as sync_lib
from aevo_jax.generation.vllm.client import InferenceError, ReplyError, ServerDownError, WrongWeightsError
from aevo_jax.generation.vllm.engine import VllmEngine
from aevo_jax.models import hf_checkpoint, lora, peft_adapter
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.params import is_adapter, outline, unbind

# httpcore2 2.16 leaves a socket open for each attempt at a server that has just been killed.
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')]

BASE = layout.root_file('substrate') / 'base'
EOS, PAD, TIE = 2, 0, 1e-4
MODELS = ('nemotron_h', 'qwen3')
QWEN3 = ModelConfig(family='qwen3', vocab_size=122, hidden_size=128, pattern='*-*-*-', num_attention_heads=4, num_key_value_heads=2, head_dim=32, rope_theta=10000.0, qk_norm=True, intermediate_size=256,
                    mlp_activation='swiglu', layer_norm_epsilon=1e-6, tie_word_embeddings=True)
SETTINGS = Vllm(max_model_len=512, startup_s=180.0, request_s=60.0)


class Served:
  """A model in a directory, as JAX has it, and an engine of it. `breaks`: what its next answers are turned into."""

  def __init__(self, directory, settings=SETTINGS):
    self.directory, self.breaks = directory, []
    self.config = hf_checkpoint.read_config(directory)
    self.structure, _ = outline(self.config)
    self.path = directory / 'model.safetensors'
    self.params = hf_checkpoint.load_weights(self.path, self.config)
    self.engine = self._engine(settings)

  def _engine(self, settings):
    return VllmEngine(settings, model=self.directory, structure=self.structure, config=self.config, eos_ids=[EOS], log=self.directory / 'vllm.log', transport=self.transport)

  @contextlib.contextmanager
  def attached(self):
    """Another engine at the same server, as at one that runs already: it gives up at the first fault, and the server stays. Afterwards the server has the file's weights again."""
    self.load()
    starts = self.engine.server.starts
    with self._engine(dataclasses.replace(SETTINGS, url=self.engine.server.address, retries=0)) as made:
      made.load(self.path, file_digest(self.path), self.params)
      yield made
    self.breaks = []
    self.load()
    assert self.engine.server.starts == starts

  def transport(self, address):
    real = httpx2.HTTPTransport(uds=address.removeprefix('unix:'))

    class Breaking(httpx2.BaseTransport):
      def handle_request(inner, request):
        reply = real.handle_request(request)
        if request.url.path == '/inference/v1/generate' and self.breaks:
          reply.read()
          return self.breaks.pop(0)(reply)
        return reply

      def close(inner):
        real.close()

    return Breaking()

  def load(self):
    """The weights of the file."""
    self.engine.load(self.path, file_digest(self.path), self.params)

  def requests(self, number, length=40, seed=0):
    rng = np.random.default_rng(seed)
    return [Request(tuple(map(int, rng.integers(3, self.config.vocab_size, length))), i) for i in range(number)]

  def logprobs(self, params, requests, completions):
    """Of each token of each completion, by JAX."""
    rows = np.zeros((len(requests), max(len(r.prompt) + len(c.tokens) for r, c in zip(requests, completions))), np.int32)
    for row, request, found in zip(rows, requests, completions):
      row[:len(request.prompt) + len(found.tokens)] = request.prompt + found.tokens
    said = np.asarray(jax.jit(lambda p, t: jax.nn.log_softmax(self.structure.bind(p)(t, np.ones(t.shape, np.int32))))(params, rows))
    return [[float(said[i, len(r.prompt) - 1 + k, token]) for k, token in enumerate(c.tokens)] for i, (r, c) in enumerate(zip(requests, completions))]


@pytest.fixture(scope='session', params=MODELS)
def served(request, tmp_path_factory):
  directory = tmp_path_factory.mktemp(f'vllm_{request.param}')
  for name in ('config.json', 'tokenizer.json', 'tokenizer_config.json', 'generation_config.json', 'model.safetensors'):
    shutil.copyfile(BASE / name, directory / name)
  if request.param == 'qwen3':
    _, params = unbind(create(QWEN3, 0))
    (directory / 'config.json').write_text(json.dumps(hf_checkpoint.config_to_hf(QWEN3, eos_token_id=EOS, pad_token_id=PAD)))
    hf_checkpoint.save_weights(directory / 'model.safetensors', {name: 2 * value for name, value in params.items()}, QWEN3)  # so that it is sure of something
  made = Served(directory)
  made.load()
  yield made
  made.engine.close()
  gc.collect()  # what the mark above covers, before it ends


def other(params, seed, scale=0.02):
  """Weights a training step away."""
  rng = np.random.default_rng(seed)
  return {name: value + scale * np.std(value) * rng.standard_normal(value.shape, np.float32) for name, value in params.items()}


def test_sampled_log_probabilities_are_jax_s(served):
  served.load()
  requests = served.requests(64)
  found = served.engine.generate(requests, Sampling(temperature=1.0, max_new_tokens=48)) + served.engine.generate(requests, Sampling(temperature=0.7, max_new_tokens=16))
  plain, warm = found[:64], found[64:]
  gaps = [abs(a - b) for c, row in zip(plain, served.logprobs(served.params, requests, plain)) for a, b in zip(c.logprobs, row)]
  assert len(gaps) >= 1000 and max(gaps) <= 1e-4, (len(gaps), max(gaps))
  assert {c.digest for c in found} == {file_digest(served.path)}
  again = served.engine.generate(requests[:8], Sampling(temperature=0.7, max_new_tokens=16))
  assert [c.tokens for c in again] == [c.tokens for c in warm[:8]]  # seeds, whatever else is in the batch


@pytest.mark.parametrize('which', ['as it is', 'trained'])
def test_greedy_answers_are_jax_s_but_for_ties(served, which):
  params = served.params if which == 'as it is' else other(served.params, 5)
  served.engine.update(params, 1)
  requests = served.requests(64, seed=3)
  theirs = served.engine.generate(requests, Sampling(temperature=0.0, max_new_tokens=24))
  ours = Sampler(served.structure, eos_id=EOS, pad_id=PAD, max_new_tokens=24)(params, [r.prompt for r in requests])
  for request, found, expected in zip(requests, theirs, ours):
    expected = (*expected, EOS)[:24]  # the sampler leaves the end token out
    if found.tokens == expected:
      continue
    at = next(k for k in range(24) if found.tokens[k:k + 1] != expected[k:k + 1])
    branches = [request, request], [found._replace(tokens=t[:at + 1]) for t in (found.tokens, expected)]
    a, b = (row[-1] for row in served.logprobs(params, *branches))
    assert abs(a - b) <= TIE, (request, at, a, b)


def test_weights_change_in_place_again_and_again(served):
  pid, starts = served.engine.server.pid, served.engine.server.starts
  digests = set()
  for k in range(10):
    served.engine.update(other(served.params, k), k)
    digests.add(served.engine.digest)
    assert served.engine.gap <= 1e-4
    (found,) = served.engine.generate(served.requests(1), Sampling(temperature=1.0, max_new_tokens=4))
    assert (found.version, found.digest) == (k, served.engine.digest)
  assert len(digests) == 10 and (served.engine.server.pid, served.engine.server.starts) == (pid, starts)


# -- faults: each an infrastructure failure that is told or mended, and never an answer ------------------------------------------------------------------------

FAULTS = pytest.mark.parametrize('served', ['nemotron_h', pytest.param('qwen3', marks=pytest.mark.slow)], indirect=True)


def some(engine, served, number=4):
  return [c.tokens for c in engine.generate(served.requests(number), Sampling(temperature=0.0, max_new_tokens=8))]


def processes(supervisor):
  """pid -> command line of everything below the supervisor, itself left out."""
  parents = {}
  for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
    with contextlib.suppress(OSError):
      parents[int(path.parent.name)] = int(path.read_text().rpartition(')')[2].split()[1])
  below = {supervisor}
  while found := {pid for pid, parent in parents.items() if parent in below} - below:
    below |= found
  found = {}
  for pid in below - {supervisor}:
    with contextlib.suppress(OSError):
      found[pid] = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes().replace(b'\0', b' ').decode()
  return found


def test_a_server_that_runs_is_used_and_left_running(served):
  with served.attached() as engine:
    assert engine.server is None and some(engine, served) == some(served.engine, served)
  assert served.engine.server.running


@FAULTS
def test_a_file_that_changed_after_it_was_sealed_is_not_loaded(served, tmp_path):
  path = tmp_path / 'model.safetensors'
  content = bytearray(served.path.read_bytes())
  content[-3] ^= 1
  path.write_bytes(content)
  with served.attached() as engine:
    with pytest.raises(ServerDownError, match='update_weights'):
      engine.load(path, file_digest(served.path), served.params)
    assert engine.digest == ''
    with pytest.raises(InferenceError):
      some(engine, served)


@FAULTS
def test_a_half_written_file_is_not_loaded(served, tmp_path):
  path = tmp_path / 'model.safetensors'
  path.write_bytes(served.path.read_bytes()[:100_000])
  with served.attached() as engine:
    for digest in (file_digest(served.path), file_digest(path)):
      with pytest.raises(InferenceError):
        engine.load(path, digest, served.params)
      assert engine.digest == ''


@FAULTS
def test_other_weights_under_the_right_name_are_found_out(served):
  with served.attached() as engine, pytest.raises(WrongWeightsError, match="from JAX's"):
    engine.load(served.path, file_digest(served.path), other(served.params, 1))


@FAULTS
def test_a_digest_that_the_server_does_not_report_is_refused(served, monkeypatch):
  def forgetful(self, client, weights):
    return sync_lib.Source('aevo', 'f' * 64, 'f' * 64, 0)  # nothing is carried, and the caller believes that it was

  with served.attached() as engine, monkeypatch.context() as patch:
    patch.setattr(sync_lib.FileCarrier, 'carry', forgetful)
    with pytest.raises(WrongWeightsError, match='says that its weights are'):
      engine.load(served.path, 'f' * 64, served.params)


@pytest.mark.parametrize('served', ['qwen3'], indirect=True)  # there is no prefix cache with Mamba blocks
def test_a_prefix_cache_that_was_not_reset_is_found_out(served, monkeypatch):
  real = sync_lib.Client.post

  def forgetful(self, path, *arguments, **what):
    return {'success': True} if path in ('/reset_prefix_cache', '/pause') else real(self, path, *arguments, **what)  # a pause resets it, too

  with served.attached() as engine, monkeypatch.context() as patch:
    patch.setattr(sync_lib.Client, 'post', forgetful)
    with pytest.raises(WrongWeightsError, match="from JAX's"):
      engine.update(other(served.params, 2, scale=0.5), 1)


TAMPERED = {
    'partial': lambda reply: httpx2.Response(200, content=reply.content[:len(reply.content) // 2]),
    'status 500': lambda reply: httpx2.Response(500, text='so it goes'),
    'another model': lambda reply: httpx2.Response(200, content=reply.content.replace(b'"aevo"', b'"ovea"')),
    'fewer tokens': lambda reply: httpx2.Response(200, json={**(j := reply.json()), 'choices': [{**j['choices'][0], 'token_ids': j['choices'][0]['token_ids'][:-1]}]}),
    'stale': lambda reply: httpx2.Response(200, json={**(j := reply.json()), 'choices': [{**j['choices'][0], 'weight_versions': [{'version': '0' * 64, 'start': 0, 'end': len(
        j['choices'][0]['token_ids'])}]}]})}


@FAULTS
@pytest.mark.parametrize('fault', TAMPERED)
def test_an_answer_that_is_broken_is_never_taken(served, fault):
  with served.attached() as engine:
    expected = some(engine, served)
    served.breaks = [TAMPERED[fault]]
    with pytest.raises((ServerDownError, ReplyError, WrongWeightsError)):
      some(engine, served)
    served.breaks = []
    engine.load(served.path, file_digest(served.path), served.params)
    assert some(engine, served) == expected


@FAULTS
@pytest.mark.parametrize('which', ['api_server', 'VLLM::EngineCore', 'VLLM::Worker'])
def test_a_killed_process_is_begun_again_and_nothing_is_lost(served, which):
  served.load()
  expected = some(served.engine, served)
  below = processes(served.engine.server.pid)
  pids = [pid for pid, command in below.items() if which in command]
  assert pids, below
  os.kill(pids[0], signal.SIGKILL)
  starts = served.engine.server.starts
  assert some(served.engine, served) == expected
  assert served.engine.server.starts == starts + 1 and served.engine.faults
  gone(below)


@FAULTS
def test_a_hanging_server_is_begun_again(served, monkeypatch):
  served.load()
  expected = some(served.engine, served)
  below = processes(served.engine.server.pid)
  monkeypatch.setattr(served.engine._client._http, 'timeout', httpx2.Timeout(6.0))
  for pid, command in below.items():
    if 'VLLM::' in command:
      os.kill(pid, signal.SIGSTOP)
  assert some(served.engine, served) == expected
  gone(below)


def gone(pids, seconds=15.0):
  until = time.monotonic() + seconds
  alive = lambda: [pid for pid in pids if pathlib.Path(f'/proc/{pid}').exists() and ') Z ' not in pathlib.Path(f'/proc/{pid}/stat').read_text()]
  while alive() and time.monotonic() < until:
    time.sleep(0.1)
  assert not alive()


def test_nothing_stays_when_the_one_who_wanted_it_is_killed(tmp_path):
  """The caller's SIGKILL, which no handler sees."""
  program = f'''
import pathlib, time
from aevo_jax.models import hf_checkpoint
from aevo_jax.config.inference import Vllm
from aevo_jax.generation.vllm.server import Server
base = pathlib.Path({str(BASE)!r})
server = Server(Vllm(max_model_len=512), base, hf_checkpoint.read_config(base), pathlib.Path({str(tmp_path / "log")!r}))
import threading
threading.Thread(target=server.start, daemon=True).start()
while not server.starts: time.sleep(.1)
print(server.pid, flush=True)
time.sleep(600)
'''
  caller = subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, text=True)
  pid = int(caller.stdout.readline())

  until, below = time.monotonic() + 60, {}
  while not any('VLLM::' in command for command in below.values()) and time.monotonic() < until:
    time.sleep(0.2)
    below = processes(pid)
  assert any('VLLM::' in command for command in below.values())
  caller.kill()
  caller.communicate()
  gone({pid, *below})


def test_reinforcement_learning_draws_its_rollouts_there(tmp_path):
  """`aevo train` with the gate on the difference between sampler and trainer, which would stop it at other weights."""
  command = ('train', f'--out={tmp_path / "run"}', '--gin_file=configs/algorithms/grpo.gin', "--gin.rollout.engine='vllm'", '--gin.vllm.max_model_len=256', '--gin.rollout.prompts=4',
             '--gin.rollout.group_size=4', '--gin.rl.microbatches=1', '--rl_steps=3')
  result = subprocess.run([sys.executable, '-m', 'aevo_jax.cli', *command], capture_output=True, text=True, cwd=layout.checkout_root())
  assert result.returncode == 0, result.stdout + result.stderr
  found = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  assert len(found) == 3 and max(m['logprob_gap_max'] for m in found) <= 1e-4
  drawn = [[json.loads(line)['digests'] for line in (tmp_path / 'run' / 'rollouts' / f'{step:06}.jsonl').read_text().splitlines()[1:]] for step in range(3)]
  digests = [{d for own in rows for d in own} for rows in drawn]
  assert all(len(d) == 1 for d in digests) and digests[0] != digests[1]  # each step's own weights


# -- adapters --------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def adapted(tmp_path_factory):
  """An engine that hot-loads adapters, and two of them with what JAX computes: {name: (directory, merged parameters)}."""
  made, shape = {}, SimpleNamespace(rank=4, alpha=8.0)
  config = hf_checkpoint.read_config(BASE)
  base = hf_checkpoint.load_weights(BASE / 'model.safetensors', config)
  for k, name in enumerate('ab'):
    model = create(config, 0)
    lora.attach(model, rank=4, alpha=8.0, targets='attention_mlp', seed=k)
    _, params = unbind(model)
    rng = np.random.default_rng(k)
    params = {n: 0.1 * rng.standard_normal(v.shape).astype(np.float32) if is_adapter(n) else base[n] for n, v in params.items()}
    directory = tmp_path_factory.mktemp('adapters') / name
    peft_adapter.save(directory, params, config, shape, str(BASE))
    made[name] = directory, lora.merge(params, 2.0)
  engine = VllmEngine(dataclasses.replace(SETTINGS, carrier='lora', lora_rank=8), model=BASE, structure=outline(config)[0], config=config, eos_ids=[EOS], log=tmp_path_factory.mktemp('log') / 'vllm.log')
  yield engine, made
  engine.close()


@pytest.mark.slow
def test_adapters_are_loaded_hot_and_another_base_is_found_out(adapted):
  engine, made = adapted
  for name, (directory, params) in made.items():
    path = directory / peft_adapter.WEIGHTS
    engine.load(path, file_digest(path), params)
    assert engine.gap <= 1e-4 and engine.digest == file_digest(path)
  starts = engine.server.starts
  assert starts == 1
  engine._settings = dataclasses.replace(engine._settings, retries=0)
  directory, params = made['a']
  with pytest.raises(WrongWeightsError, match="from JAX's"):
    engine.load(directory / peft_adapter.WEIGHTS, file_digest(directory / peft_adapter.WEIGHTS), {n: 1.05 * v for n, v in params.items()})  # as of another base
  with pytest.raises(WrongWeightsError, match='announced was'):
    engine.load(directory / peft_adapter.WEIGHTS, 'f' * 64, params)
