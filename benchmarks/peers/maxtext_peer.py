"""MaxText's side of the comparisons in versus.py; runs in third_party/maxtext/.venv."""

import contextlib
import itertools
import os
import pathlib
import sys
import tempfile

os.environ |= {'JAX_PLATFORMS': 'cpu', 'DECOUPLE_GCLOUD': 'TRUE', 'HF_HUB_OFFLINE': '1'}
import workload as w

with contextlib.redirect_stdout(sys.stderr):
  import jax
  import maxtext
  import numpy as np
  from flax import nnx
  from flax.core.spmd import logical_axis_rules
  from maxtext.checkpoint_conversion.utils import param_mapping
  from maxtext.configs import pyconfig
  from maxtext.trainers.pre_train import train
  from maxtext.utils import sharding, train_utils
  from safetensors.numpy import load_file

M = w.MODEL
SETTINGS = {
  'run_name': 'peer',
  'hardware': 'cpu',
  'skip_jax_distributed_system': True,
  'enable_checkpointing': False,
  'log_config': False,
  'steps': 1_000_000,
  'decoder_block': 'qwen3',
  'base_emb_dim': M['hidden_size'],
  'base_num_query_heads': M['num_attention_heads'],
  'base_num_kv_heads': M['num_key_value_heads'],
  'base_mlp_dim': M['intermediate_size'],
  'base_num_decoder_layers': M['num_hidden_layers'],
  'head_dim': M['head_dim'],
  'mlp_activations': ['silu', 'linear'],
  'vocab_size': M['vocab_size'],
  'use_qk_norm': True,
  'normalization_layer_epsilon': M['rms_norm_eps'],
  'rope_max_timescale': int(M['rope_theta']),
  'logits_via_embedding': True,
  'normalize_embedding_logits': False,
  'enable_dropout': False,
  'dtype': 'float32',
  'attention': 'dot_product',
  'per_device_batch_size': w.ROWS,
  'max_target_length': w.LENGTH,
  'learning_rate': 1e-4,
  'warmup_steps_fraction': 0.0,
  'learning_rate_final_fraction': 1.0,
}


def load(state: nnx.State, config, directory: str) -> nnx.State:
  """The state with a Hugging Face checkpoint's weights."""
  weights, flat, given = (
    load_file(pathlib.Path(directory) / 'model.safetensors'),
    dict(nnx.to_flat_state(state)),
    set(),
  )

  def converted(name: str, kernel: bool, shape: tuple[int, ...]) -> np.ndarray:
    return (weights[name].T if kernel else weights[name]).reshape(shape)

  for name, source in param_mapping.QWEN_MAXTEXT_TO_HF_PARAM_MAPPING(
    M, config, scan_layers=config.scan_layers
  ).items():
    path = ('model', *name.split('-')[1:])
    if path not in flat:
      continue  # biases, and an output matrix of its own
    shape, kernel, axis = flat[path].shape, path[-1] == 'kernel', config.param_scan_axis
    value = (
      converted(source, kernel, shape)
      if isinstance(source, str)
      else np.stack([converted(n, kernel, shape[:axis] + shape[axis + 1 :]) for n in source], axis)
    )
    flat[path] = flat[path].replace(jax.device_put(value, flat[path].get_value().sharding))
    given.add(path)
  if missing := [
    path
    for path, leaf in flat.items()
    if path[0] == 'model' and isinstance(leaf, nnx.Param) and path not in given
  ]:
    raise SystemExit(f'the checkpoint gives MaxText no {missing}')
  return nnx.from_flat_state(flat)


def sft(asked: dict):
  options = SETTINGS | {'base_output_directory': tempfile.mkdtemp()} | asked.get('config', {})
  with contextlib.redirect_stdout(sys.stderr):
    config = pyconfig.initialize(
      [
        '',
        str(pathlib.Path(maxtext.__file__).parent / 'configs' / 'base.yml'),
        *(f'{name}={value}' for name, value in options.items()),
      ]
    )
    _, _, shardings, _, mesh, _, _, _, _, _, state = train_utils.setup_train_loop(config, None)
    graph, state = nnx.split(state)
    of_params, shardings = sharding.maybe_update_params_sharding_with_opt(config, shardings)
    step, _ = train_utils.jit_train_and_eval_step(
      config, graph, mesh, state, shardings, train.train_step, train.eval_step, None, of_params
    )
  state, numbers = load(state, config, asked['model']), itertools.count(step=w.ROWS)
  ones, positions = (
    np.ones((w.ROWS, w.LENGTH), np.int32),
    np.tile(np.arange(w.LENGTH, dtype=np.int32), (w.ROWS, 1)),
  )
  answered = (positions < w.LENGTH - 1).astype(np.int32)

  def run() -> dict:
    nonlocal state
    first = next(numbers)
    tokens = np.stack(
      [w.sequence(i, asked['ragged']) for i in range(first, first + w.ROWS)]
    ).astype(np.int32)
    batch = {
      'inputs': tokens,
      'inputs_position': positions,
      'inputs_segmentation': ones,
      'targets': np.roll(tokens, -1, axis=1),
      'targets_position': positions,
      'targets_segmentation': answered,
    }
    with jax.set_mesh(mesh), logical_axis_rules(config.logical_axis_rules):
      state, metrics = step(state, batch)
    return {'tokens': tokens.size, 'loss': float(metrics['scalar']['learning/loss'])}

  return run


if __name__ == '__main__':
  w.serve(lambda asked: {'sft': sft}[asked['workload']](asked))
