"""Rounds of arms: a process that takes turns, an arm that fails in it, and a process that dies."""

import json
import sys

import pytest

from aevo_jax.analysis import targets
from aevo_jax.analysis.strategies import arms
from aevo_jax.analysis.strategies.rounds import Rounds, environment, why_not_at_hand

TARGET = targets.parse('cpux8')
# Speaks as `arms` does. Arm 'weak' fails, and 'deadly' takes its process with it in round 2.
PROGRAM = """
import json, os, sys
job = json.loads(sys.stdin.read())
def say(**facts): print(json.dumps(facts), flush=True)
say(devices='8 x cpu')
for number in range(job['rounds']):
  for arm in job['meshes']:
    say(turn=arm)
    if arm == 'weak' and number == 0:
      say(arm=arm, error='RuntimeError: no memory')
    elif arm == 'deadly' and number == 1:
      print('killed by a signal', file=sys.stderr)
      os._exit(3)
    elif arm != 'weak':
      say(arm=arm, seconds=[3.0, 1.0, 2.0], loss=4.8)
"""


def run(*names: str, rounds: int = 4) -> tuple[Rounds, list[str]]:
  said: list[str] = []
  taken = Rounds(said.append, program=(sys.executable, '-c', PROGRAM))
  taken.run({'meshes': dict.fromkeys(names, 'a.gin'), 'rounds': rounds}, TARGET)
  return taken, said


def test_turns_are_interleaved_and_a_round_is_the_median_of_its_steps():
  taken, said = run('fsdp', 'tensor', 'control', rounds=2)
  assert taken.seconds == {'fsdp': [2.0, 2.0], 'tensor': [2.0, 2.0], 'control': [2.0, 2.0]}
  assert [line.partition(':')[0] for line in said] == 2 * ['fsdp', 'tensor', 'control']
  assert taken.devices == '8 x cpu' and not taken.errors


def test_an_arm_that_fails_is_left_out_and_the_others_go_on():
  taken, _ = run('fsdp', 'weak', 'control')
  assert taken.errors == {'weak': 'RuntimeError: no memory'}
  assert len(taken.seconds['fsdp']) == len(taken.seconds['control']) == 4


def test_an_arm_that_takes_its_process_with_it_costs_a_round_and_no_more():
  taken, _ = run('fsdp', 'deadly', 'control')
  assert taken.errors == {'deadly': 'its process ended with status 3: killed by a signal'}
  assert len(taken.seconds['fsdp']) == len(taken.seconds['control']) == 4
  assert len(taken.seconds['deadly']) == 1


def test_simulated_devices_are_at_hand_and_others_are_not():
  assert why_not_at_hand(TARGET) == ''
  assert '--xla_force_host_platform_device_count=8' in environment(TARGET)['XLA_FLAGS']
  missing = why_not_at_hand(targets.parse('h200x64'))
  assert missing.startswith('h200x64 is not at hand; the devices here: 1 x ')


def job(**changed) -> arms.Job:
  fields = {
    'gin_files': ['configs/models/micro_nemotron_h.gin'],
    'bindings': ["model.pattern = '-'"],
    'adaptation': '',
    'rows': 2,
    'row_length': 16,
    'meshes': {'single': 'configs/meshes/single.gin', 'four': 'configs/meshes/fsdp_tensor.gin'},
    'steps': 2,
    'rounds': 2,
  }
  return arms.Job(**(fields | changed))


def test_the_real_step_runs_and_a_mesh_that_does_not_fit_is_a_reason(capsys):
  arms.run(job())
  said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  turns = [facts for facts in said if 'seconds' in facts and 'arm' in facts]
  assert [facts['arm'] for facts in turns] == ['single', 'single'], said
  assert all(len(facts['seconds']) == 2 and min(facts['seconds']) > 0 for facts in turns)
  # A turn begins anew, with the loss of random weights: near that of guessing 122 tokens.
  assert turns[0]['loss'] == turns[1]['loss'] == pytest.approx(4.8, abs=1.5)
  (refused,) = [facts for facts in said if 'error' in facts]
  assert refused['arm'] == 'four' and 'need a multiple of 4 devices' in refused['error']
