"""Real worker processes: what they train, and what they refuse."""

import dataclasses
import json
import time

import pytest

from aevo_jax.campaign.executors.local import LocalExecutor
from aevo_jax.campaign.executors.protocol import Ended, Job
from aevo_jax.campaign.trial.spec import EXPORT, RESULT, TrialSpec
from aevo_jax.config.statements import Binding, parse_statements, render


def real_worker(tiny_run, directory, **changes) -> dict:
  """A worker process on the spec of the finished run's r0w0, some bindings changed; its claim."""
  spec = TrialSpec.read(tiny_run / 'trials' / 'r0w0')
  bindings = {b.selector: b.value for b in parse_statements(spec.recipe)} | changes.pop(
    'recipe', {}
  )
  spec = dataclasses.replace(
    spec, recipe=render(Binding(k, v) for k, v in bindings.items()), **changes
  )
  directory.mkdir()
  spec.write(directory)
  (directory / 'substrate.fork.json').write_text(
    (tiny_run / 'trials' / 'r0w0' / 'substrate.fork.json').read_text()
  )
  executor = LocalExecutor(1, directory / 'fork_server.log')
  handle = executor.submit('r0w0', Job(directory, 300))
  while not isinstance(executor.poll(handle), Ended):
    time.sleep(0.05)
  executor.close()
  assert executor.poll(handle) == Ended(0), (directory / 'log.txt').read_text()[-2000:]
  return json.loads((directory / RESULT).read_text())


def test_a_diverging_recipe_of_the_operator_is_stopped_as_non_finite(tiny_run, tmp_path):
  # Decay of 10 at rate 10 multiplies every weight by -99 a step: float32 ends within twenty steps,
  # whatever the model does with it.
  claim = real_worker(
    tiny_run,
    tmp_path / 't',
    tokens=20_480,
    steps=40,
    recipe={
      'optimizer.learning_rate': 10.0,
      'optimizer.weight_decay': 10.0,
      'optimizer.schedule': 'constant',
      'optimizer.warmup_fraction': 0.0,
      'train.batch_rows': 4,
    },
  )
  assert (claim['status'], claim['cause']) == ('failed', 'non_finite')
  assert not (tmp_path / 't' / EXPORT).exists()


AXES = {
  'method': {
    'method.name': {'kind': 'choice', 'choices': ['sft', 'sft_then_rl', 'sft_then_dpo']},
    'rollout.prompts': {'kind': 'choice', 'choices': [4, 8]},
    'advantage.kind': {
      'kind': 'choice',
      'choices': ['group_std', 'batch_mean'],
      'when': {'method.name': ['sft_then_rl']},
    },
    'policy_gradient.clip_low': {
      'kind': 'float',
      'low': 0.1,
      'high': 0.3,
      'when': {'method.name': ['sft_then_rl']},
    },
  }
}


@pytest.mark.parametrize(
  'chosen',
  [{'method.name': 'sft_then_rl', 'advantage.kind': 'batch_mean'}, {'method.name': 'sft_then_dpo'}],
  ids=['rl', 'dpo'],
)
def test_a_worker_may_go_on_to_reinforcement_learning(tiny_run, tmp_path, chosen):
  """In its sandbox, and within its tokens."""
  overlay = chosen | {'rollout.prompts': 4}
  claim = real_worker(
    tiny_run,
    tmp_path / 't',
    tokens=65_536,
    steps=40,
    axes=AXES,
    overlay=render(Binding(k, v) for k, v in overlay.items()),
    recipe=overlay | {'rollout.max_new_tokens': 16},
  )
  assert claim['status'] == 'trained', claim
  plan = json.loads((tmp_path / 't' / 'resolved.json').read_text())['plan']
  assert (
    claim['tokens'] == plan['tokens'] <= 65_536
    and claim['steps'] == plan['sft_steps'] + plan['rl_steps']
    and plan['rl_steps'] > 3
  )
  assert (
    len((tmp_path / 't' / 'then' / 'metrics.jsonl').read_text().splitlines()) == plan['rl_steps']
  )
  assert json.loads((tmp_path / 't' / 'liveness.json').read_text()).keys() == overlay.keys()
  assert (tmp_path / 't' / EXPORT).exists()


def test_a_clip_that_never_acts_is_refused_by_the_worker(tiny_run, tmp_path):
  """One update a step: every ratio is 1. With two, the same binding is live."""
  overlay = {'method.name': 'sft_then_rl', 'policy_gradient.clip_low': 0.15}
  asked = {
    'tokens': 65_536,
    'steps': 40,
    'axes': AXES,
    'overlay': render(Binding(k, v) for k, v in overlay.items()),
  }
  claim = real_worker(
    tiny_run, tmp_path / 'dead', recipe=overlay | {'rollout.max_new_tokens': 16}, **asked
  )
  assert (
    claim['status'] == 'refused'
    and 'policy_gradient.clip_low' in claim['message']
    and 'method.name' not in claim['message']
  )
  assert (
    real_worker(
      tiny_run,
      tmp_path / 'live',
      recipe=overlay | {'rollout.max_new_tokens': 16, 'rl.epochs': 2},
      **asked,
    )['status']
    == 'trained'
  )


def test_a_gate_of_reinforcement_learning_fails_the_trial_by_name(tiny_run, tmp_path):
  claim = real_worker(
    tiny_run,
    tmp_path / 't',
    tokens=65_536,
    steps=40,
    overlay='',
    recipe={'method.name': 'sft_then_rl', 'rollout.max_new_tokens': 16, 'gates.logprob_gap': 1e-9},
  )
  assert (claim['status'], claim['cause']) == (
    'failed',
    'stopped',
  ) and 'gates.logprob_gap' in claim['message']
  assert not (tmp_path / 't' / EXPORT).exists()


def test_a_dead_binding_past_the_gate_is_refused_by_the_worker(tiny_run, tmp_path):
  claim = real_worker(
    tiny_run, tmp_path / 't', recipe={'lora.rank': 8}, overlay='lora.rank = 8\n'
  )  # under full fine-tuning nobody reads it
  assert claim['status'] == 'refused' and 'lora.rank' in claim['message']
