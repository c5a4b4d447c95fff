"""The memory estimate of a training run against sums by hand and against the training state that is
really made.
"""

import dataclasses

import jax
import pytest
from jax.sharding import PartitionSpec as P

from aevo_jax.models.config import ModelConfig
from aevo_jax.sharding.rules import Sharding
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.placement import shapes_of, state_specs
from aevo_jax.training.recipe.memory_estimate import estimate_memory
from aevo_jax.training.recipe.recipe import Adaptation, Lora, Optimizer, Recipe, Train

CONFIG = ModelConfig(
  vocab_size=32,
  hidden_size=32,
  pattern='M-*EE',
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=8,
  intermediate_size=64,
  mamba_num_heads=4,
  mamba_head_dim=8,
  n_groups=2,
  ssm_state_size=8,
  n_routed_experts=8,
  num_experts_per_tok=3,
  moe_intermediate_size=16,
  moe_shared_expert_intermediate_size=16,
)
SIZES = {'fsdp': 2, 'tensor': 4}
ONE = Sharding({}).bind({'data': 1})


def of(layout=ONE, rows=8, row_length=16, config=CONFIG, **recipe):
  return estimate_memory(config, Recipe(**recipe), layout, rows=rows, row_length=row_length)


def test_state_by_hand():
  """An MLP model whose every dimension is cut: 4 bytes for each parameter and gradient, 8 for
  AdamW, over the devices that hold them.
  """
  config = ModelConfig(vocab_size=32, hidden_size=32, pattern='-', intermediate_size=64)
  found = of(
    Sharding({'embed': 'fsdp', 'mlp': 'tensor', 'vocab': 'tensor'}).bind(SIZES),
    config=config,
    train=Train(ema_decay=0.5),
  )
  matrices, norms = 2 * 32 * 32 + 2 * 32 * 64, 2 * 32
  assert found.count == matrices + norms
  cut = matrices // 8 + norms // 2
  assert (found.parameters, found.gradients, found.moving_average, found.frozen) == (
    4 * cut,
    4 * cut,
    4 * cut,
    0,
  )
  assert 8 * cut <= found.optimizer < 8 * cut + 64  # and a few numbers: step, learning rate, ...


def test_on_one_device_it_is_the_arrays_that_are_made():
  trained = shapes_of(CONFIG, Adaptation(), Lora()).trained
  params = jax.tree.map(lambda shape: jax.numpy.zeros(shape.shape, shape.dtype), trained)

  def size(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

  found = of(optimizer=Optimizer(name='lion'))
  assert found.parameters == size(params) and found.optimizer == size(
    transformation(Optimizer(name='lion')).init(params)
  )
  assert found.frozen == 2 * 8 * 4  # the biases of two routers


def test_an_adapter_freezes_the_base_in_the_computations_dtype():
  config = ModelConfig(
    vocab_size=32, hidden_size=32, pattern='-', intermediate_size=64, compute_dtype='bfloat16'
  )
  found = of(config=config, adaptation=Adaptation('lora'), lora=Lora(rank=4, targets='mlp'))
  assert found.parameters == found.gradients == 2 * 4 * (32 + 64) * 4
  assert found.frozen == 2 * (2 * 32 * 32 + 2 * 32 * 64 + 2 * 32)


def test_moments_lie_as_their_parameters():
  trained = shapes_of(CONFIG, Adaptation(), Lora()).trained
  specs = {name: P('fsdp') for name in trained}
  found = state_specs(jax.eval_shape(transformation(Optimizer()).init, trained), trained, specs)
  leaves = jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, P))
  assert leaves.count(P('fsdp')) == 2 * len(trained) and P() in leaves


def test_activations_scale_as_they_must():
  base, twice = of(), of(rows=16)
  for policy, parts in base.activations.items():
    for part in ('block inputs', 'kept in blocks', 'loss'):
      assert twice.activations[policy][part] == pytest.approx(2 * parts[part], rel=1e-3), (
        policy,
        part,
      )  # masks and the like do not grow with rows
  assert (
    base.activations['block']['kept in blocks']
    == 0
    < base.activations['dots']['kept in blocks']
    < base.activations['none']['kept in blocks']
  )
  assert base.activations['block']['block inputs'] == 5 * 8 * 16 * 32 * 4
  spread = of(Sharding({'batch': 'fsdp', 'length': 'tensor'}).bind(SIZES)).activations['none']
  assert spread['kept in blocks'] == pytest.approx(
    base.activations['none']['kept in blocks'] / 8, rel=0.05
  )


def test_experts_keep_the_tokens_that_they_collect():
  """Where rows lie along the experts' axis, experts see four devices' tokens: what they keep is as
  if rows did not lie there, all else a quarter.
  """
  config = dataclasses.replace(CONFIG, pattern='E')
  kept = {
    batch: of(
      Sharding({'batch': batch, 'experts': 'tensor'}).bind(SIZES), row_length=64, config=config
    ).activations['none']['kept in blocks']
    for batch in ('fsdp', ('fsdp', 'tensor'))
  }
  tokens = (
    8 // 2 * 64 * 3
    # rows of 64 tokens, a whole tile of a grouped product, on one of two devices, each with three
    # experts
  )
  # At least what goes into either product, the activation before its square, and what is weighted,
  # all float32.
  assert kept['fsdp', 'tensor'] > tokens * (32 + 16 + 16 + 32) * 4
  assert kept['fsdp'] / 4 < kept['fsdp', 'tensor'] < kept['fsdp']


def test_the_batch_must_be_divided():
  with pytest.raises(ValueError, match=r'train\.batch_rows = 3 cannot be divided by 2'):
    of(Sharding({'batch': 'fsdp'}).bind(SIZES), rows=3)


def test_a_gpus_kernel_keeps_no_scores():
  """Without the scores [heads, t, t] what attention keeps grows with a row's length, not its
  square.
  """
  config = dataclasses.replace(CONFIG, pattern='*', compute_dtype='bfloat16')

  def kept(length, platform):
    found = estimate_memory(
      config, Recipe(), ONE, rows=1, row_length=length, platform=platform
    ).activations
    return found['none']['kept in blocks']

  assert kept(512, 'gpu') < 2.1 * kept(256, 'gpu')
  assert kept(512, 'cpu') > 3 * kept(256, 'cpu')


def test_chunks_and_microbatches_take_less_at_a_time():
  base = of(row_length=64)
  chunked = of(row_length=64, train=Train(logits_chunk=16))
  assert chunked.activations['none']['loss'] == pytest.approx(
    base.activations['none']['loss'] / 4, rel=0.01
  )
  assert chunked.activations['none']['gathered head'] == 32 * 32 * 4
  parts = of(row_length=64, train=Train(microbatches=4))
  for part in ('block inputs', 'loss'):
    assert parts.activations['none'][part] == pytest.approx(
      base.activations['none'][part] / 4, rel=0.01
    )
  assert parts.gradients == 2 * base.gradients  # of a part, and their sum


def test_the_loss_and_the_blocks_gradients_are_not_there_at_once():
  found = of()
  parts = found.activations['block']
  assert found.temporary('block') == parts['block inputs'] + max(
    parts['loss'], found.gradients + parts['largest block']
  )
