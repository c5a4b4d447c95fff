"""A real vLLM server (`make vllm`): weights in place, wrong weights refused, adapters, rollouts.
`make test` runs what is not slow of this where the environment is there; `make vllm-full` all.
"""

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import httpx2
import numpy as np
import pytest
from vllm_served import (
  BASE,
  EOS,
  MODELS,
  PAD,
  SETTINGS,
  Fault,
  Served,
  gone,
  other,
  processes,
  write_model,
)

from aevo_jax import layout
from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.generation.protocol import Sampling
from aevo_jax.generation.sampler import Sampler
from aevo_jax.generation.vllm.client import (
  InferenceError,
  ServerDownError,
  Source,
  WrongWeightsError,
)
from aevo_jax.generation.vllm.transports import FileTransport
from aevo_jax.models import lora
from aevo_jax.models import weights as weights_lib
from aevo_jax.models.decoder import create
from aevo_jax.models.hf import checkpoint, peft_adapter
from aevo_jax.models.params import is_adapter, unbind

# httpcore2 2.16 leaves a socket open for each attempt at a server that has just been killed.
pytestmark = [
  pytest.mark.vllm,
  pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning'),
]

TIE = 1e-4
FAULTS = pytest.mark.parametrize(
  'served', ['nemotron_h', pytest.param('qwen3', marks=pytest.mark.slow)], indirect=True
)


def test_sampled_log_probabilities_are_jax_s(served):
  served.load()
  requests = served.requests(64)
  found = served.engine.generate(
    requests, Sampling(temperature=1.0, max_new_tokens=48)
  ) + served.engine.generate(requests, Sampling(temperature=0.7, max_new_tokens=16))
  plain, warm = found[:64], found[64:]
  gaps = [
    abs(a - b)
    for c, row in zip(plain, served.logprobs(served.params, requests, plain), strict=True)
    for a, b in zip(c.logprobs, row, strict=True)
  ]
  assert len(gaps) >= 1000 and max(gaps) <= 1e-4, (len(gaps), max(gaps))
  assert {c.digest for c in found} == {served.digest}
  again = served.engine.generate(requests[:8], Sampling(temperature=0.7, max_new_tokens=16))
  assert [c.tokens for c in again] == [
    c.tokens for c in warm[:8]
  ]  # seeds, whatever else is in the batch


@pytest.mark.parametrize('which', ['as it is', 'trained'])
def test_greedy_answers_are_jax_s_but_for_ties(served, which):
  params = served.params if which == 'as it is' else other(served.params, 5)
  served.engine.update(params, 1)
  requests = served.requests(64, seed=3)
  theirs = served.engine.generate(requests, Sampling(temperature=0.0, max_new_tokens=24))
  ours = Sampler(served.structure, eos_id=EOS, pad_id=PAD, max_new_tokens=24)(
    params, [r.prompt for r in requests]
  )
  for request, found, expected in zip(requests, theirs, ours, strict=True):
    expected = (*expected, EOS)[:24]  # the sampler leaves the end token out
    if found.tokens == expected:
      continue
    at = next(k for k in range(24) if found.tokens[k : k + 1] != expected[k : k + 1])
    branches = (
      [request, request],
      [found._replace(tokens=t[: at + 1]) for t in (found.tokens, expected)],
    )
    a, b = (row[-1] for row in served.logprobs(params, *branches))
    assert abs(a - b) <= TIE, (request, at, a, b)


def test_weights_change_in_place_again_and_again(served):
  pid, starts = served.engine.server.pid, served.engine.server.starts
  digests = set()
  for k in range(10):
    served.engine.update(other(served.params, k), k)
    digests.add(served.engine.digest)
    assert served.engine.gap <= 1e-4
    (found,) = served.engine.generate(
      served.requests(1), Sampling(temperature=1.0, max_new_tokens=4)
    )
    assert (found.version, found.digest) == (k, served.engine.digest)
  assert len(digests) == 10 and (served.engine.server.pid, served.engine.server.starts) == (
    pid,
    starts,
  )


# -- wrong weights, refused (test_vllm_faults has what servers do) ---------------------------------


def test_a_server_that_runs_is_used_and_left_running(served):
  with served.attached() as engine:
    assert engine.server is None and served.some(engine) == served.some(served.engine)
  assert served.engine.server.running


@FAULTS
def test_a_file_that_changed_after_it_was_sealed_is_not_loaded(served, tmp_path):
  path = tmp_path / 'model.safetensors'
  content = bytearray(served.path.read_bytes())
  content[-3] ^= 1
  path.write_bytes(content)
  with served.attached() as engine:
    with pytest.raises(ServerDownError, match='update_weights'):
      engine.load(path, served.digest, served.params)
    assert engine.digest == ''
    with pytest.raises(InferenceError):
      served.some(engine)


@FAULTS
def test_a_half_written_file_is_not_loaded(served, tmp_path):
  path = tmp_path / 'model.safetensors'
  path.write_bytes(served.path.read_bytes()[:100_000])
  with served.attached() as engine:
    for digest in (served.digest, file_digest(path)):
      with pytest.raises(InferenceError):
        engine.load(path, digest, served.params)
      assert engine.digest == ''


@FAULTS
def test_other_weights_under_the_right_name_are_found_out(served):
  with served.attached() as engine, pytest.raises(WrongWeightsError, match="from JAX's"):
    engine.load(served.path, served.digest, other(served.params, 1))


@FAULTS
def test_a_digest_that_the_server_does_not_report_is_refused(served):
  class Forgetful(FileTransport):
    """Brings nothing, and the caller believes that it did."""

    def deliver(self, client, weights):
      return Source('aevo', 'f' * 64, 'f' * 64, 0)

  with served.attached() as engine:
    engine.transport = Forgetful(engine.settings, served.directory / 'vllm.log')
    with pytest.raises(WrongWeightsError, match='says that its weights are'):
      engine.load(served.path, 'f' * 64, served.params)


@pytest.mark.parametrize(
  'served', ['qwen3'], indirect=True
)  # there is no prefix cache with Mamba blocks
def test_a_prefix_cache_that_was_not_reset_is_found_out(served):
  class Forgotten(Fault):
    """Requests that the server never gets; a pause resets the cache, too."""

    def hits(self, request):
      return request.url.path in ('/reset_prefix_cache', '/pause')

  with served.attached() as engine:
    served.fault = Forgotten('', lambda send, request: httpx2.Response(200, json={'success': True}))
    with pytest.raises(WrongWeightsError, match="from JAX's"):
      engine.update(other(served.params, 2, scale=0.5), 1)


def test_nothing_stays_when_the_one_who_wanted_it_is_killed(tmp_path):
  """The caller's SIGKILL, which no handler sees. Its files of weights, which may lie in memory, go
  too.
  """
  (tmp_path / 'weights').mkdir()
  program = f"""
import pathlib, time
from aevo_jax.models.hf import checkpoint as hf_checkpoint
from aevo_jax.config.inference import Vllm
from aevo_jax.generation.vllm.server import Server
base = pathlib.Path({str(BASE)!r})
server = Server(
  Vllm(max_model_len=512), base, hf_checkpoint.read_config(base),
  pathlib.Path({str(tmp_path / 'log')!r}), scratch=pathlib.Path({str(tmp_path / 'weights')!r}),
)
import threading
threading.Thread(target=server.start, daemon=True).start()
while not server.starts: time.sleep(.1)
print(server.pid, flush=True)
time.sleep(600)
"""
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
  assert not (tmp_path / 'weights').exists()


@pytest.mark.parametrize('ahead', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_reinforcement_learning_draws_its_rollouts_there(tmp_path, ahead):
  """`aevo train` with the gate on the difference between sampler and trainer, which would stop it
  at other weights. ahead: a step's rollouts are drawn while the one before trains.
  """
  command = (
    'train',
    f'--out={tmp_path / "run"}',
    '--gin_file=configs/algorithms/grpo.gin',
    "--gin.rollout.engine='vllm'",
    '--gin.vllm.max_model_len=256',
    '--gin.rollout.prompts=4',
    '--gin.rollout.group_size=4',
    '--gin.rl.microbatches=1',
    f'--gin.rollout.asynchronous={ahead}',
    '--rl_steps=3',
  )
  result = subprocess.run(
    [sys.executable, '-m', 'aevo_jax.cli', *command],
    capture_output=True,
    text=True,
    cwd=layout.checkout_root(),
  )
  assert result.returncode == 0, result.stdout + result.stderr
  found = [
    json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  ]
  assert len(found) == 3 and max(m['logprob_gap_max'] for m in found) <= 1e-4
  assert [m['staleness'] for m in found] == ([0, 1, 1] if ahead else [0, 0, 0])
  drawn = [
    [
      json.loads(line)['digests']
      for line in (tmp_path / 'run' / 'rollouts' / f'{step:06}.jsonl').read_text().splitlines()[1:]
    ]
    for step in range(3)
  ]
  digests = [{d for own in rows for d in own} for rows in drawn]
  assert all(
    len(d) == 1 for d in digests
  )  # each step's own weights, which a step without signal leaves as they are
  moved = [not m['no_signal'] for m in found]
  assert any(moved[:2]) and [a != b for a, b in itertools.pairwise(digests)] == (
    [False, moved[0]] if ahead else moved[:2]
  )
  assert json.loads((tmp_path / 'run' / 'command.json').read_text())['rollouts'] == 'vllm'


# -- other carriers, each with a server of its own -------------------------------------------------

TARGETS = {
  'nemotron_h': ('attention_mlp', 'all'),
  'qwen3': ('attention', 'all'),
}  # 'all' has a Mamba block's in_proj and out_proj


@pytest.fixture(scope='module', params=MODELS)
def adapted(request, tmp_path_factory):
  """A model whose engine hot-loads adapters, and two of them with what JAX computes: [(path of the
  weights, merged parameters)].
  """
  directory = tmp_path_factory.mktemp(f'adapted_{request.param}')
  write_model(directory, request.param)
  served, made = Served(directory, dataclasses.replace(SETTINGS, carrier='lora', lora_rank=8)), []
  for k, targets in enumerate(TARGETS[request.param]):
    model = create(served.config, 0)
    lora.attach(model, rank=4, alpha=8.0, targets=targets, seed=k)
    _, params = unbind(model)
    rng = np.random.default_rng(k)
    params = {
      n: 0.1 * rng.standard_normal(v.shape).astype(np.float32)
      if is_adapter(n)
      else served.params[n]
      for n, v in params.items()
    }
    peft_adapter.save(
      directory / targets, params, served.config, SimpleNamespace(rank=4, alpha=8.0), str(directory)
    )
    made.append((directory / targets / peft_adapter.WEIGHTS, lora.merge(params, 2.0)))
  yield served, made
  served.engine.close()


@pytest.mark.slow
def test_adapters_are_loaded_hot_and_another_base_is_found_out(adapted):
  served, made = adapted
  engine, said = served.engine, []
  for path, params in (*made, made[0]):
    engine.load(path, file_digest(path), params)
    assert engine.gap <= 1e-4 and engine.digest == file_digest(path)
    requests = served.requests(32)
    found = engine.generate(requests, Sampling(temperature=1.0, max_new_tokens=32))
    assert (
      max(
        abs(a - b)
        for c, row in zip(found, served.logprobs(params, requests, found), strict=True)
        for a, b in zip(c.logprobs, row, strict=True)
      )
      <= 1e-4
    )
    assert {c.digest for c in found} == {file_digest(path)}
    said.append([c.tokens for c in found])
  assert said[0] == said[2] != said[1]
  assert engine.server.starts == 1 and not engine.faults
  engine._settings = dataclasses.replace(engine._settings, retries=0)
  path, params = made[0]
  on_another = {
    n: v + other(served.params, 7, scale=0.3)[n] - served.params[n] for n, v in params.items()
  }  # the same adapter, merged into another base than the server began with
  with pytest.raises(WrongWeightsError, match="from JAX's"):
    engine.load(path, file_digest(path), on_another)
  with pytest.raises(WrongWeightsError, match='announced was'):
    engine.load(path, 'f' * 64, params)
  with pytest.raises(ValueError, match=r'takes|loads adapters'):
    engine.update(params, 1)


def evaluate(*arguments):
  """Runs `aevo evaluate`."""
  return subprocess.run(
    [sys.executable, '-m', 'aevo_jax.cli', 'evaluate', *arguments],
    capture_output=True,
    text=True,
    cwd=layout.checkout_root(),
  )


@pytest.mark.slow
def test_the_challenges_preset_scores_an_adapter_as_the_sampler_does(tmp_path):
  base, adapter = tmp_path / 'base', tmp_path / 'adapter'
  base.mkdir()
  write_model(base, 'nemotron_h')
  fields = json.loads((base / 'config.json').read_text())
  (base / 'config.json').write_text(
    json.dumps(fields | {'max_position_embeddings': 8192})
  )  # it has no positions to learn
  config = checkpoint.read_config(base)
  model = create(config, 0)
  lora.attach(model, rank=32, alpha=64.0, targets='attention_mlp', seed=0)
  rng = np.random.default_rng(0)
  peft_adapter.save(
    adapter,
    {
      n: 0.02 * rng.standard_normal(v.shape).astype(np.float32)
      for n, v in unbind(model)[1].items()
      if is_adapter(n)
    },
    config,
    SimpleNamespace(rank=32, alpha=64.0),
    str(base),
  )
  said = []
  for how in (
    ('--gin_file=configs/engines/challenge.gin',),
    ("--gin.objective.verifier='challenge'", "--gin.objective.size='standard'"),
  ):
    result = evaluate(
      str(adapter), *how, '--gin.objective.max_new_tokens=64', '--items=40', '--json'
    )
    assert result.returncode == 0, result.stdout + result.stderr
    said.append(json.loads(result.stdout))
  another = tmp_path / 'another'
  shutil.copytree(base, another)
  checkpoint.save_weights(
    another / 'model.safetensors',
    other(weights_lib.load(base / 'model.safetensors', config), 1),
    config,
  )
  result = evaluate(str(adapter), f'--base={another}')
  assert result.returncode == 1 and 'has other weights' in result.stderr and not result.stdout
  theirs, ours = said
  assert theirs.pop('engine') == 'vllm' and theirs.pop('served_digest') == theirs[
    'file_digest'
  ] == file_digest(adapter / peft_adapter.WEIGHTS)
  assert theirs == ours and ours['overall']['total'] == 40


@pytest.mark.slow
def test_a_checkpoint_directory_is_reloaded_in_place(tmp_path):
  for name in 'ab':
    (tmp_path / name).mkdir()
    write_model(tmp_path / name, 'nemotron_h')
  served = Served(tmp_path / 'a', dataclasses.replace(SETTINGS, carrier='reload', retries=0))
  params = other(served.params, 3)
  path = tmp_path / 'b' / 'model.safetensors'
  checkpoint.save_weights(path, params, served.config)
  with served.engine as engine:
    for file, weights in (
      (served.path, served.params),
      (path, params),
      (served.path, served.params),
      (path, params),
    ):
      engine.load(file, file_digest(file), weights)
      assert engine.gap <= 1e-4 and engine.server.starts == 1
    with pytest.raises(WrongWeightsError, match="from JAX's"):
      engine.load(path, file_digest(path), served.params)
    with pytest.raises(WrongWeightsError, match='announced was'):
      engine.load(path, 'f' * 64, params)


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_a_server_that_compiles_takes_weights_in_place(tmp_path, name):
  """vllm.eager = False."""
  write_model(tmp_path, name)
  served = Served(tmp_path, dataclasses.replace(SETTINGS, eager=False, startup_s=600.0, retries=0))
  requests, said = served.requests(16), []
  with served.engine as engine:
    for seed in (1, 2, 1):
      params = other(served.params, seed, scale=0.3)
      engine.update(params, seed)
      found = engine.generate(requests, Sampling(temperature=1.0, max_new_tokens=32))
      assert (
        max(
          abs(a - b)
          for c, row in zip(found, served.logprobs(params, requests, found), strict=True)
          for a, b in zip(c.logprobs, row, strict=True)
        )
        <= 1e-4
      )
      said.append([c.tokens for c in found])
    assert said[0] == said[2] != said[1] and engine.server.starts == 1
  assert 'enforce_eager=False' in (tmp_path / 'vllm.log').read_text()
