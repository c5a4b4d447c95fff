"""One optimizer step of tiny models, on 8 simulated devices, under meshes and without one. Run by
test_equality.py, in a process of its own.

  on_eight_devices.py M-*-,ME*E,*E*E+scan+qwen3 fsdp,expert      patterns, mesh files
  on_eight_devices.py continued DIRECTORY        a training run that continues on another mesh
  on_eight_devices.py reduced M-*-,ME*E fsdp     in which dtypes gradients are summed, in bfloat16

Behind a pattern: scan (with recomputation), qwen3 (another family), window (of attention), kernels
(their stand-ins on the mesh, none on the single device), chunks (of logits, on the mesh alone), odd
(a vocabulary that no mesh divides), adafactor, muon (optimizers).

Prints one JSON line a case: losses, the largest differences, and the shapes that single devices
hold.
"""

import dataclasses
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aevo_jax import layout
from aevo_jax.analysis import hlo
from aevo_jax.analysis.abstract_step import lower_step
from aevo_jax.analysis.collectives import collectives
from aevo_jax.config import loading
from aevo_jax.config.configurables import resolve
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.layers.linear import Linear
from aevo_jax.models.params import abstract, unbind
from aevo_jax.models.scan_layers import Scanned, stack
from aevo_jax.sharding import mesh as mesh_lib
from aevo_jax.training import train_loop
from aevo_jax.training.model_setup import PolicyModel
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.placement import Placement, shapes_of
from aevo_jax.training.recipe.recipe import (
  Adaptation,
  Lora,
  Optimizer,
  Recipe,
  Train,
  TrainConfig,
)
from aevo_jax.training.run_config import RunConfig
from aevo_jax.training.train_state import TrainState
from aevo_jax.training.train_step import make_train_step

FIELDS = {
  'vocab_size': 32,
  'hidden_size': 32,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 8,
  'intermediate_size': 32,
  'mamba_num_heads': 4,
  'mamba_head_dim': 8,
  'n_groups': 2,
  'ssm_state_size': 8,
  'chunk_size': 8,
  'n_routed_experts': 8,
  'num_experts_per_tok': 3,
  'moe_intermediate_size': 16,
  'moe_shared_expert_intermediate_size': 16,
}
QWEN3 = {
  'family': 'qwen3',
  'rope_theta': 1e4,
  'qk_norm': True,
  'mlp_activation': 'swiglu',
  'router': 'softmax',
  'moe_shared_expert_intermediate_size': 0,
}
ROWS, LENGTH = 8, 32


def make_batch(seed: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  return {
    'tokens': rng.integers(0, 32, (ROWS, LENGTH)).astype(np.int32),
    'weights': rng.uniform(0, 1, (ROWS, LENGTH)).astype(np.float32),
    'segment_ids': np.sort(rng.integers(1, 4, (ROWS, LENGTH))).astype(np.int32),
  }


def difference(a, b) -> float:
  return max(
    float(np.abs(np.asarray(x) - np.asarray(y)).max())
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def config_of(kinds: str, options: list[str]) -> ModelConfig:
  fields = FIELDS
  if 'qwen3' in options:
    fields = fields | QWEN3
  if 'scan' in options:
    fields = fields | {'scan': True, 'remat_policy': 'block'}
  if 'odd' in options:
    fields = fields | {'vocab_size': 33}
  if 'window' in options:
    fields = fields | {'sliding_window': 5}
  return ModelConfig(**fields, pattern=kinds)


def with_kernels(config: ModelConfig) -> ModelConfig:
  """The model on GPUs' kernels, whose stand-ins are installed."""
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
  import kernel_stand_ins

  kernel_stand_ins.install()
  return dataclasses.replace(config, attention_implementation='mosaic', moe_implementation='mosaic')


def main(patterns: list[str], meshes: list[str]) -> None:
  batch = make_batch(0)
  for pattern in patterns:
    kinds, *options = pattern.split('+')
    config = config_of(kinds, options)
    structure, params = unbind(create(config, seed=0))
    if config.scan:
      structure, params = unbind(Scanned(abstract(config)))[0], stack(params, kinds)
    names = [option for option in options if option in ('adafactor', 'muon')]
    optimizer = transformation(Optimizer(name=(names or ['adamw'])[0]))
    train = TrainConfig()
    step = make_train_step(structure, optimizer, train)
    start = jax.tree.map(np.asarray, TrainState.create(params, optimizer, 0.0))
    whole, metrics = jax.jit(step)(start, {}, batch, np.float32(1e-3))
    if 'kernels' in options:  # the single device has computed without
      config = with_kernels(config)
      model = abstract(config)
      structure = unbind(Scanned(model) if config.scan else model)[0]
    if 'chunks' in options:  # of 6 positions: of 4 parts of a row one each, 8 times
      train = TrainConfig(train=Train(logits_chunk=6))
    for name in meshes:
      placement = placed(name, config)
      laid_out = make_train_step(placement.structure(structure, params), optimizer, train)
      with placement.use():
        shardings = state_shardings(placement, params, optimizer)
        state = placement.lay_out(start, shardings)
        batches = jax.device_put(batch, placement.batch())
        jitted = jax.jit(
          placement.padded(laid_out), out_shardings=(shardings, None), donate_argnums=0
        )
        after, sharded = jitted(state, {}, batches, np.float32(1e-3))
      leaves = {
        '.'.join(
          str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key)))) for key in path
        ): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(after)
      }
      print(
        json.dumps(
          {
            'pattern': pattern,
            'mesh': name,
            'devices': placement.mesh.size,
            'loss': float(metrics['loss']),
            'loss_difference': abs(float(sharded['loss'] - metrics['loss'])),
            'grad_norm': float(metrics['grad_norm']),
            'grad_norm_difference': abs(float(sharded['grad_norm'] - metrics['grad_norm'])),
            'state_difference': difference(placement.stored(after), whole),
            'interleaved': max((form.parts for form in placement.forms.values()), default=1),
            'step_moved': difference(whole.params, start.params),
            'batch': [batches['tokens'].shape, batches['tokens'].addressable_shards[0].data.shape],
            'held': {
              name: [leaf.shape, leaf.addressable_shards[0].data.shape]
              for name, leaf in leaves.items()
              if leaf.ndim
            },
          }
        ),
        flush=True,
      )


def state_shardings(placement: Placement, params: dict, optimizer) -> TrainState:
  def create(params):
    return TrainState.create(params, optimizer, 0.0)

  laid_out = placement.put(params)
  return placement.state(jax.eval_shape(placement.padded(create), laid_out), laid_out)


def placed(name: str, config: ModelConfig, bindings: Sequence[str] = ()) -> Placement:
  loading.load([f'configs/meshes/{name}.gin'], bindings, search_paths=layout.search_paths())
  mesh = mesh_lib.create(resolve('mesh'), jax.devices()[:1] if name == 'single' else None)
  layout_ = resolve('sharding').bind(mesh.shape)
  return Placement.of(mesh, layout_, shapes_of(config, Adaptation(), Lora()), config)


class Counted:
  """Batches that differ; knows where it is."""

  def __init__(self):
    self.position = 0

  def __next__(self):
    self.position += 1
    return make_batch(self.position)

  def get_state(self):
    return {'position': self.position}

  def set_state(self, state):
    self.position = state['position']


def continued(directory: pathlib.Path) -> None:
  """Four steps on three meshes, one of which pads and interleaves, beside four without a mesh."""
  config = config_of('M-', ['odd'])
  structure, params = unbind(create(config, seed=0))

  def run(name, rates, placement=None):
    return train_loop.train(
      PolicyModel(structure, params, {}),
      transformation(Optimizer()),
      Counted(),
      rates,
      directory / name,
      TrainConfig(train=Train(ema_decay=0.5)),
      RunConfig(placement=placement),
    )

  rates = [1e-2] * 4
  whole = run('whole', rates)
  for name, steps in (('fsdp', 1), ('fsdp_tensor', 3), ('context', 4)):
    placement = placed(name, config)
    with placement.use():
      state = run('spread', rates[:steps], placement)
  print(
    json.dumps(
      {
        'difference': difference(state, whole),
        'moved': difference(whole.params, params),
        'step': int(state.step),
        'held': {
          name: [value.shape, value.addressable_shards[0].data.shape]
          for name, value in (state.ema | state.params).items()
        },
        'moment': [
          state.opt_state.inner_state[1][0].mu['embedding'].shape,
          state.opt_state.inner_state[1][0].mu['embedding'].addressable_shards[0].data.shape,
        ],
      }
    )
  )


def reduced(patterns: list[str], meshes: list[str]) -> None:
  """In which dtypes the partitioned step sums along the axis 'fsdp', and a weight's error."""
  for name in meshes:
    for reduction in ('compute', 'float32'):
      bindings = [f'sharding.gradient_reduction = "{reduction}"']
      for pattern in patterns:
        kinds, *options = pattern.split('+')
        config = dataclasses.replace(config_of(kinds, options), compute_dtype='bfloat16')
        placement = placed(name, config, bindings)
        recipe = Recipe(train=Train(batch_rows=ROWS, row_length=LENGTH, logits_chunk=8))
        program = partitioned(lower_step(config, recipe, placement).lowered)
        summed = [
          [one.kind, one.axes, one.dtype]
          for one in collectives(program, placement.mesh.shape)
          if one.kind in ('all-reduce', 'reduce-scatter') and 'fsdp' in one.axes
        ]
        print(json.dumps({'mesh': name, 'reduction': reduction, 'pattern': pattern,
                          'summed': summed}), flush=True)  # fmt: skip
      print(json.dumps({'mesh': name, 'reduction': reduction,
                        'error': linear_error(placement)}), flush=True)  # fmt: skip


def partitioned(lowered) -> hlo.Module:
  """The program before CPUs' compiler raises sums to float32."""
  with tempfile.TemporaryDirectory() as directory:
    options = {'xla_dump_to': directory, 'xla_dump_hlo_pass_re': 'spmd-partitioning',
               'xla_dump_hlo_as_text': True,
               'xla_backend_optimization_level': 0}  # fmt: skip
    lowered.compile(compiler_options=options)
    files = pathlib.Path(directory).glob('*after_*spmd-partitioning.*.txt')
    return hlo.parse(max(files, key=lambda path: path.stat().st_size).read_text())


def linear_error(placement: Placement) -> float:
  """The error of a bfloat16 layer's weight gradient and bias gradient, by float64."""
  rng = np.random.default_rng(0)
  x, g = (rng.normal(size=(ROWS, LENGTH, 16)).astype(jnp.bfloat16) for _ in range(2))
  structure, params = unbind(Linear(16, 16, ('embed', 'mlp'), rngs=nnx.Rngs(params=0), bias=True))

  def loss(params, x, g):
    return jnp.sum(structure.bind(params)(x) * g)

  with placement.use():
    rows = jax.device_put((x, g), placement.batch())
    found = jax.jit(jax.grad(loss))(params, *rows)
  x, g = (np.asarray(value, np.float64).reshape(-1, 16) for value in (x, g))
  expected = {'kernel': x.T @ g, 'bias': g.sum(0)}
  return max(
    float(np.abs(np.asarray(found[name]) - value).max() / np.abs(value).max())
    for name, value in expected.items()
  )


if __name__ == '__main__':
  if sys.argv[1] == 'continued':
    continued(pathlib.Path(sys.argv[2]))
  elif sys.argv[1] == 'reduced':
    reduced(sys.argv[2].split(','), sys.argv[3].split(','))
  else:
    main(sys.argv[1].split(','), sys.argv[2].split(','))
