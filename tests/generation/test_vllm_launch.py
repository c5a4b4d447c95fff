"""How a vLLM server is started for each transport, and which settings are refused."""

import contextlib
import itertools
import json
import pathlib
import sys

import pytest
from vllm_served import QWEN3

from aevo_jax import layout
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.inference import WHOLE_TRANSPORTS, Vllm
from aevo_jax.generation.vllm import server as server_lib
from aevo_jax.generation.vllm.transports import TRANSPORTS
from aevo_jax.models.config import ModelConfig


def options(carrier, config=QWEN3):
  command = server_lib.command(
    Vllm(carrier=carrier, python=sys.executable), pathlib.Path('m'), config, []
  )
  return {name: value for name, value in itertools.pairwise(command) if name.startswith('--')}


def test_a_server_is_started_for_its_carrier():
  assert [
    json.loads(options(carrier)['--weight-transfer-config'])['backend']
    for carrier in ('file', 'nccl', 'ipc', 'reload', 'lora')
  ] == ['aevo_file', 'nccl', 'ipc', 'aevo_file', 'aevo_file']
  assert {
    carrier for carrier in TRANSPORTS if options(carrier).get('--load-format') == 'dummy'
  } == set(WHOLE_TRANSPORTS)
  assert {carrier for carrier in TRANSPORTS if '--hf-overrides' in options(carrier)} == set(
    WHOLE_TRANSPORTS
  )  # tied embeddings
  assert {carrier for carrier in TRANSPORTS if '--worker-extension-cls' in options(carrier)} == {
    'file',
    'reload',
    'lora',
  }


def test_only_ipc_lets_a_server_unpickle_and_only_nccl_is_told_of_its_networks(monkeypatch):
  monkeypatch.setenv('NCCL_SOCKET_IFNAME', 'eth1')
  monkeypatch.setenv('SECRET', 's')
  given = {carrier: server_lib.environment(Vllm(carrier=carrier)) for carrier in TRANSPORTS}
  assert {
    carrier for carrier in given if 'VLLM_ALLOW_INSECURE_SERIALIZATION' in given[carrier]
  } == {'ipc'}
  assert {carrier for carrier in given if 'NCCL_SOCKET_IFNAME' in given[carrier]} == {'nccl'}
  assert not any('SECRET' in environment for environment in given.values())


@pytest.mark.parametrize(
  'settings, said',
  [
    ({'carrier': 'ipc', 'tensor_parallel': 2}, "bind vllm.carrier = 'nccl' or 'file'"),
    ({'carrier': 'ipc', 'url': 'http://10.0.0.2:8000'}, 'is for a server on this machine'),
    ({'carrier': 'ipc', 'url': 'https://gpu.example'}, 'is for a server on this machine'),
    ({'carrier': 'nccl', 'url': 'http://10.0.0.2:8000'}, 'bind vllm.transfer_address'),
    ({'transfer_address': '10.0.0.1'}, 'nothing reads it while vllm.carrier'),
    ({'carrier': 'ipc', 'transfer_address': '10.0.0.1'}, 'nothing reads it while vllm.carrier'),
  ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
  with pytest.raises(ValueError, match=said):
    Vllm(**settings)


@pytest.mark.parametrize(
  'settings',
  (
    {'carrier': 'ipc', 'url': 'unix:/s'},
    {'carrier': 'ipc', 'url': 'http://127.0.0.1:8000'},
    {'carrier': 'ipc', 'url': 'http://[::1]:8000'},
    {'carrier': 'nccl', 'url': 'http://10.0.0.2:8000', 'transfer_address': '10.0.0.1'},
    {'carrier': 'nccl', 'tensor_parallel': 8},
  ),
)
def test_settings_that_can_be_are_not_refused(settings):
  assert {name: getattr(Vllm(**settings), name) for name in settings} == settings


def test_threads_and_adapters_are_what_a_server_is_started_with():
  bound, free = server_lib.environment(Vllm()), server_lib.environment(Vllm(cpu_threads=3))
  assert 'OMP_NUM_THREADS' not in bound and (
    free['OMP_NUM_THREADS'],
    free['VLLM_CPU_OMP_THREADS_BIND'],
  ) == ('3', 'nobind')
  command = server_lib.command(
    Vllm(carrier='lora', lora_rank=8, lora_slots=2, python=sys.executable),
    pathlib.Path('m'),
    ModelConfig(),
    [],
  )
  assert [
    command[command.index(name) + 1]
    for name in ('--max-loras', '--max-cpu-loras', '--max-lora-rank')
  ] == ['2', '3', '8']


@pytest.mark.parametrize('carrier', TRANSPORTS)
def test_a_constitution_takes_what_carries_whole_weights(carrier):
  loading.load(
    [str(layout.root_file('constitution.gin'))],
    ["evaluation.engine = 'vllm'", f"vllm.carrier = '{carrier}'"],
    search_paths=layout.search_paths(),
  )
  with (
    contextlib.nullcontext()
    if carrier in WHOLE_TRANSPORTS
    else pytest.raises(ValueError, match='cannot carry sealed weights; bind one of file, nccl, ipc')
  ):
    constitution_lib.from_gin()
