"""The gates on the sampler's and the trainer's log-probabilities, in float32 and in bfloat16.

`FAULTS` has what goes wrong on one side, and the gates that must stop the run for it in each dtype
with nothing bound. Without a fault the run takes its steps.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from rl_cases import CONFIG, EOS, PAD, SMALL, metrics, rates, trainer

from aevo_jax.generation.engine import Engine
from aevo_jax.models.decoder import create
from aevo_jax.models.params import unbind
from aevo_jax.training.recipe.rl_settings import Gates
from aevo_jax.training.rl import gates

STEPS = 3
DTYPES = ('float32', 'bfloat16')
dtypes = pytest.mark.parametrize('dtype', DTYPES)


@functools.cache
def model(dtype):
  return unbind(create(dataclasses.replace(CONFIG, compute_dtype=dtype), 0))


class Faultless(Engine):
  """The engine of a fault, which changes one of its ways."""

  def __init__(self, dtype):
    super().__init__(model(dtype)[0], eos_ids=[EOS], pad_id=PAD, slots=64, dispatch=4)


class WrongWeights(Faultless):
  """A head that is a little off, as a sync that went wrong would leave it."""

  def update(self, params, version):
    changed = dict(params)
    head = params['lm_head.kernel']
    sign = np.sign(np.sin(np.arange(head.size))).reshape(head.shape).astype(np.float32)
    changed['lm_head.kernel'] = head + 0.05 * sign
    super().update(changed, version)


class LostBlock(Faultless):
  """A block's weights did not arrive."""

  def update(self, params, version):
    changed = {}
    for name, value in params.items():
      changed[name] = value * (0.0 if name == 'layers.1.mixer.down_proj.kernel' else 1.0)
    super().update(changed, version)


class Stale(Faultless):
  """Weights never arrive after the first."""

  def update(self, params, version):
    if self.version < 0:
      super().update(jax.tree.map(np.array, params), version)


class Colder(Faultless):
  """Draws at another temperature than is trained at."""

  def generate(self, requests, sampling):
    return super().generate(requests, dataclasses.replace(sampling, temperature=0.8))


class Shifted(Faultless):
  """Gives each token the log-probability of the next."""

  def generate(self, requests, sampling):
    completions = super().generate(requests, sampling)
    return [c._replace(logprobs=(*c.logprobs[1:], 0.0)) for c in completions]


class Coarser(Faultless):
  """Computes in bfloat16, whatever the trainer does."""

  def __init__(self, dtype):
    del dtype
    super().__init__('bfloat16')


_ALL = ('logprob_gap', 'logprob_gap_quantile', 'logprob_gap_mean')
_TWO = ('logprob_gap_quantile', 'logprob_gap_mean')
# (fault, dtype): the gates that catch it.
FAULTS = {
  (WrongWeights, 'float32'): _ALL,
  (LostBlock, 'float32'): _ALL,
  (Stale, 'float32'): _ALL,
  (Colder, 'float32'): _ALL,
  (Shifted, 'float32'): _ALL,
  (Coarser, 'float32'): _TWO,
  (WrongWeights, 'bfloat16'): _TWO,
  (LostBlock, 'bfloat16'): _TWO,
  (Stale, 'bfloat16'): _ALL,
  (Colder, 'bfloat16'): ('logprob_gap_mean',),
  (Shifted, 'bfloat16'): _ALL,
}


def stopped_by(error) -> tuple[str, ...]:
  """The gates that the message names."""
  return tuple(rule for rule in _ALL if f'(gates.{rule} allows' in str(error))


@pytest.mark.parametrize(('fault', 'dtype'), FAULTS)
def test_a_fault_on_one_side_is_caught(fault, dtype, tmp_path):
  with pytest.raises(gates.StoppedError) as stopped:
    trainer(tmp_path, engine_=fault(dtype), model=model(dtype)).train(rates(STEPS, 3e-2))
  assert stopped_by(stopped.value) == FAULTS[fault, dtype], str(stopped.value)
  assert stopped.value.rule == FAULTS[fault, dtype][0]
  assert str(stopped.value).count(' position ') == gates.WORST


@dtypes
def test_a_run_without_a_fault_takes_its_steps_with_room(dtype, tmp_path):
  made = trainer(tmp_path, engine_=Faultless(dtype), model=model(dtype))
  assert int(made.train(rates(STEPS)).step) == STEPS
  allowed = gates.LIMITS[dtype, 'jax']
  for step in metrics(tmp_path):
    assert 0 < step['logprob_gap_mean'] < allowed.mean / 2
    assert step['logprob_gap_mean'] <= step['logprob_gap_quantile'] <= step['logprob_gap_max']
    assert step['logprob_gap_quantile'] < allowed.quantile / 2
    assert step['logprob_gap_max'] < allowed.largest / 2


# What is bound, and (largest, quantile, mean) of what is then allowed.
BOUND = [
  ({}, gates.LIMITS['bfloat16', 'vllm']),
  ({'logprob_gap': 0.05}, (0.05, 0.0, 0.0)),
  ({'logprob_gap': 0.0}, (0.0, 0.0, 0.0)),
  ({'logprob_gap_mean': 0.01}, (0.0, 0.0, 0.01)),
  ({'logprob_gap': 0.5, 'logprob_gap_quantile': 0.1}, (0.5, 0.1, 0.0)),
]


@pytest.mark.parametrize(('bound', 'expected'), BOUND)
def test_a_gate_that_is_bound_is_the_only_one(bound, expected):
  assert gates.limits(Gates(**bound), 'bfloat16', 'vllm') == expected


def test_a_bound_maximum_stops_bfloat16_as_it_did(tmp_path):
  algorithm = dataclasses.replace(SMALL, gates=Gates(logprob_gap=0.01))
  made = trainer(tmp_path, algorithm, engine_=Faultless('bfloat16'), model=model('bfloat16'))
  with pytest.raises(gates.StoppedError, match=r'gates\.logprob_gap allows 0\.01') as stopped:
    made.train(rates(STEPS))
  assert stopped_by(stopped.value) == ('logprob_gap',)


@pytest.mark.parametrize('value', [-0.1, float('nan'), float('inf')])
@pytest.mark.parametrize('name', _ALL)
def test_a_gate_outside_its_range_is_refused(name, value):
  with pytest.raises(ValueError, match=rf'gates\.{name} must lie in'):
    Gates(**{name: value})


def test_the_gap_of_made_up_tokens():
  """One token of two hundred is far off: the maximum sees it, the quantile does not."""
  rng = np.random.default_rng(0)
  sampler = rng.uniform(-3, 0, (4, 60)).astype(np.float32)
  mask = np.zeros((4, 60), np.float32)
  mask[:, 10:] = 1.0
  trainer_bt = sampler + np.where(mask > 0, 0.01, 7.0).astype(np.float32)
  trainer_bt[2, 30] += 1.0
  anything = gates.Limits(0.0, 0.0, 0.0)
  gap = gates.logprob_gap(trainer_bt, sampler, mask, np.zeros((4, 60), np.int32), anything)
  assert gap.largest == pytest.approx(1.01, abs=1e-5)
  assert gap.quantile == pytest.approx(0.01, abs=1e-5)
  assert gap.mean == pytest.approx(0.01 + 1 / 200, abs=1e-5)
  trainer_bt[0, 20] = np.nan
  with pytest.raises(gates.StoppedError, match='by inf nats in the log-probability of a token'):
    gates.logprob_gap(
      trainer_bt, sampler, mask, np.zeros((4, 60), np.int32), gates.Limits(1e6, 0.0, 0.0)
    )
  nothing = gates.logprob_gap(trainer_bt, sampler, mask * 0, mask.astype(np.int32), anything)
  assert nothing == (0.0, 0.0, 0.0, 0.0)
