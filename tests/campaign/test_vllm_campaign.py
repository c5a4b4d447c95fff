"""Real campaigns of the tiny size beside real vLLM servers: scored by one that is killed again and
again, by one that never stays up, and planned by one that talks nonsense. `make vllm-full` runs
them.
"""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import threading

import pytest
from aevo_command import aevo_process
from vllm_served import QWEN3, SETTINGS, processes, write_model

from aevo_jax import layout
from aevo_jax.campaign.machine.fault import PAUSED_STATUS, MachineFaultError
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.data import chat_template
from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.evaluation import scoring, sets
from aevo_jax.generation.vllm.server import Server, interpreter
from aevo_jax.ledger.append import read
from aevo_jax.models import weights as weights_lib
from aevo_jax.models.decoder import create
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import outline, unbind
from aevo_jax.report.audit import checks

# httpcore2 2.16 leaves a socket open for each attempt at a server that has just been killed.
pytestmark = [
  pytest.mark.vllm,
  pytest.mark.slow,
  pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning'),
]

SCORED_BY_VLLM = ("evaluation.engine = 'vllm'", 'vllm.max_model_len = 512')


def evaluators_engines() -> list[int]:
  """Processes of vLLM engines below this session's evaluator."""
  evaluators = [
    pid
    for pid, command in processes(os.getpid()).items()
    if 'aevo_jax.evaluation.servers.evaluator' in command
  ]
  return [
    pid
    for evaluator in evaluators
    for pid, command in processes(evaluator).items()
    if 'VLLM::EngineCore' in command
  ]


def kill(pids) -> int:
  for pid in pids:
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGKILL)
  return len(pids)


@contextlib.contextmanager
def meanwhile(watch, finished):
  """Runs `watch` beside what is below, until it sees `finished`."""
  watcher = threading.Thread(target=watch)
  watcher.start()
  try:
    yield
  finally:
    finished.set()
    watcher.join()


def failed(run) -> list:
  return [f for f in checks.audit(run) if f.status == checks.FAILED]


def dev_answers(run, trial):
  """Of the in-process sampler, for weights that the campaign scored."""
  constitution, base = (
    constitution_lib.read(run / 'constitution.gin'),
    layout.root_file('substrate') / 'base',
  )
  config = checkpoint.read_config(base)
  scorer = scoring.Scorer(
    outline(config)[0],
    tokenizers.load(str(base)),
    sets.dev_items(constitution),
    max_new_tokens=constitution.objective.max_new_tokens,
    chat=chat_template.read(str(base)),
    verifier=constitution.objective.verifier,
  )
  return scorer(weights_lib.load(run / 'trials' / trial / 'export' / 'model.safetensors', config))


def test_a_campaign_whose_server_is_killed_again_and_again_scores_as_ever(
  start_tiny_campaign, run_campaign
):
  """In the midst of scoring, three times, each time another trial's."""
  files, killed, scored, finished = (
    start_tiny_campaign('vllmkilled', *SCORED_BY_VLLM),
    [],
    threading.Semaphore(1),
    threading.Event(),
  )
  log = files.run / 'logs' / 'vllm_evaluator.log'

  def answered():
    return log.read_bytes().count(b'POST /inference/v1/generate') if log.exists() else 0

  def watch():
    while len(killed) < 3 and not finished.is_set():
      if scored.acquire(timeout=0.5):
        begun = answered()
        while answered() < begun + 5 and not finished.wait(
          0.01
        ):  # the probe's two, and some of the items'
          pass
        killed.append(kill(evaluators_engines()))

  def observer(record):
    if record is not None and record.kind == 'trial_scored':
      scored.release()

  with meanwhile(watch, finished):
    state = run_campaign(files, observer)
  assert killed == [1, 1, 1] and state.finished is not None and not failed(files.run)
  told = [name for name, trial in state.trials.items() if trial.dev is not None]
  assert len(told) >= 4 and all(trial.status == 'sealed' for trial in state.trials.values())
  for name in told:
    said = scoring.from_rows(
      json.loads((files.run / 'scores' / f'{name}.dev.json').read_text())['items']
    )
    assert said == dev_answers(files.run, name)


def test_a_server_that_never_stays_up_pauses_the_campaign_which_then_goes_on(
  start_tiny_campaign, run_campaign
):
  down, killed = threading.Event(), []

  def watch():
    while not finished.wait(0.2):
      if down.is_set():
        killed.append(kill(evaluators_engines()))

  def observer(record):
    if record is not None and record.kind == 'trial_sealed' and record.payload['trial'] == 'r1w1':
      down.set()

  files = start_tiny_campaign('vllmdown', *SCORED_BY_VLLM)
  finished = threading.Event()
  with meanwhile(watch, finished), pytest.raises(MachineFaultError, match='ServerDownError') as end:
    run_campaign(files, observer)
  assert end.value.cause == 'engine' and sum(killed) >= 3  # asked, and twice again
  state = run_campaign(files)
  assert state.finished is not None and state.pauses == 1
  assert state.trials['r1w1'].dev is not None and not failed(files.run)
  assert 'trial_failed' not in [record.kind for record in read(files.run / 'ledger.jsonl')]


def test_an_engine_that_is_gone_pauses_the_command_and_back_again_it_goes_on(
  start_tiny_campaign, tmp_path
):
  """Between a campaign's preparation and its start, somebody removes vLLM's environment."""
  engine = tmp_path / 'engine'
  environment = interpreter(SETTINGS).parent.parent
  engine.symlink_to(environment)
  there = f"vllm.python = '{engine / 'bin' / 'python'}'"
  run = start_tiny_campaign('vllmgone', *SCORED_BY_VLLM, there).run
  engine.unlink()
  paused = aevo_process('campaign', f'--resume={run}')
  assert paused.returncode == PAUSED_STATUS, paused.stdout + paused.stderr
  assert f'there is no vLLM at {engine}' in paused.stderr and 'Traceback' not in paused.stderr
  assert f'aevo campaign --resume={run}' in paused.stderr
  engine.symlink_to(environment)
  resumed = aevo_process('campaign', f'--resume={run}', timeout=900)
  assert resumed.returncode == 0, resumed.stdout + resumed.stderr
  kinds = [record.kind for record in read(run / 'ledger.jsonl')]
  assert 'campaign_paused' in kinds and 'trial_failed' not in kinds and not failed(run)


def test_a_campaign_planned_by_a_server_of_random_weights_finishes_under_the_statistical_agent(
  start_tiny_campaign, run_campaign, tmp_path
):
  """Every reply is nonsense, and every reply is in the ledger."""
  write_model(tmp_path, 'qwen3')
  config = dataclasses.replace(QWEN3, max_position_embeddings=65536)
  (tmp_path / 'config.json').write_text(
    json.dumps(checkpoint.config_to_hf(config, eos_token_id=2, pad_token_id=0))
  )
  checkpoint.save_weights(tmp_path / 'model.safetensors', unbind(create(config, 0))[1], config)
  settings = json.loads((tmp_path / 'tokenizer_config.json').read_text())
  (tmp_path / 'tokenizer_config.json').write_text(
    json.dumps(settings | {'model_max_length': 65536})
  )
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    port = found.getsockname()[1]
  address = f'http://127.0.0.1:{port}'
  # Any carrier but 'file' starts with the directory's own weights.
  server = Server(
    dataclasses.replace(SETTINGS, carrier='reload', max_model_len=65536),
    tmp_path,
    config,
    tmp_path / 'vllm.log',
    listen=(['--host', '127.0.0.1', '--port', str(port)], address),
  )
  try:
    server.start()
    files = start_tiny_campaign(
      'vllmplans',
      "campaign.agent = 'llm'",
      "campaign.workers_choose = 'llm'",
      f"llm.base_url = '{address}/v1'",
      "llm.model = 'aevo'",
      "llm.key_variable = ''",
      'llm.wait_s = 0.0',
      'llm.attempts = 2',
      'llm.max_reply_tokens = 200',
      "search_space.axes = {'update_rule': {'optimizer.learning_rate': {'kind': 'float', "
      "'low': 5e-5, 'high': 5e-3, 'scale': 'log'}},"
      "'averaging': {'train.batch_rows': {'kind': 'choice', 'choices': [2, 4, 8, 16]}}}",
    )
    state = run_campaign(files)
  finally:
    server.stop()
  exchanges = [r.payload for r in read(files.run / 'ledger.jsonl') if r.kind == 'llm_exchange']
  assert state.finished is not None and {t.status for t in state.trials.values()} == {'sealed'}
  assert (
    set(state.fell_back) == {(1, 'policy'), (1, 'worker 1')} and len(exchanges) == 4
  )  # each question twice
  for exchange in exchanges:
    assert (
      exchange['reply']
      and exchange['usage']['source'] == 'server'
      and exchange['usage']['tokens_in'] > 500
    ), exchange
  assert state.policies[1]['policy']['assignments'][1]['reason'].startswith(
    'expected '
  )  # the statistical agent's words
  assert not failed(files.run)
