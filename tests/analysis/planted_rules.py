"""Compiles small models under good and bad rules of a sharding and prints what is found. Run by
test_planted_rules.py, in a process of its own.

  planted_rules.py cpux8 good:fsdp bad:no_batch      cases of this file, by kind and name

Prints one JSON line a case: its name, the findings, and the bytes of arguments and collectives.
"""

import contextlib
import dataclasses
import functools
import importlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from aevo_jax import layout
from aevo_jax.analysis import targets

DENSE = {
  'family': 'qwen3',
  'pattern': '*-*-',
  'vocab_size': 384,
  'hidden_size': 256,
  'num_attention_heads': 8,
  'num_key_value_heads': 4,
  'head_dim': 24,
  'rope_theta': 1e4,
  'qk_norm': True,
  'intermediate_size': 640,
  'mlp_activation': 'swiglu',
}
HYBRID = {
  'pattern': 'ME*-',
  'vocab_size': 384,
  'hidden_size': 256,
  'num_attention_heads': 8,
  'num_key_value_heads': 4,
  'head_dim': 24,
  'intermediate_size': 640,
  'mamba_num_heads': 8,
  'mamba_head_dim': 40,
  'n_groups': 4,
  'ssm_state_size': 16,
  'chunk_size': 16,
  'n_routed_experts': 8,
  'num_experts_per_tok': 2,
  'moe_intermediate_size': 96,
  'moe_shared_expert_intermediate_size': 112,
}
EXPERTS = HYBRID | {'pattern': '*E*-'}

Plant = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclasses.dataclass(frozen=True)
class Case:
  """A model under rules.

  Attributes:
    model: fields of its config.
    mesh: a mesh file's name, or {axis: size}.
    rules: over the mesh file's; None as a value takes a rule out.
    adaptation: 'full' or 'lora'.
    train: fields of the recipe's `train`.
    plant: changes the code, instead of the rules.
    as_accelerators: products are differentiated as on accelerators, rather than as on CPUs.
    array: what a finding must name, a part of it.
    source: the file and function that it must name, or ''.
    rule: a rule that it must name.
  """

  model: dict[str, Any]
  mesh: str | dict[str, int]
  rules: dict[str, Any] = dataclasses.field(default_factory=dict)
  adaptation: str = 'full'
  train: dict[str, Any] = dataclasses.field(default_factory=dict)
  plant: Plant = contextlib.nullcontext
  as_accelerators: bool = True
  array: str = ''
  source: str = ''
  rule: str = ''


def compiled(case: Case, target: targets.Target) -> dict[str, Any]:
  """Compiles a case; returns what is found, and bytes by kind and axes."""
  from aevo_jax.analysis.collectives import totals
  from aevo_jax.analysis.compiled import compile_step
  from aevo_jax.config import loading
  from aevo_jax.config.configurables import resolve
  from aevo_jax.models.config import ModelConfig
  from aevo_jax.sharding.mesh import MeshConfig
  from aevo_jax.sharding.rules import Sharding
  from aevo_jax.training.recipe import recipe as recipe_lib

  files = [f'configs/meshes/{case.mesh}.gin'] if isinstance(case.mesh, str) else []
  loading.load(files, [], search_paths=layout.search_paths())
  mesh = resolve('mesh') if files else MeshConfig(axes=case.mesh)
  rules = resolve('sharding').rules if files else {}
  rules = {name: axes for name, axes in (rules | case.rules).items() if axes is not None}
  sharding = Sharding(rules)
  rows = 2 * sharding.bind(mesh.sizes(target.devices)).shards('batch')
  fields = {'batch_rows': rows, 'row_length': 128} | case.train
  recipe = dataclasses.replace(
    recipe_lib.from_gin(),
    train=recipe_lib.Train(**fields),
    adaptation=recipe_lib.Adaptation(case.adaptation),
  )
  kernels = {'compute_dtype': 'float32' if target.kind == 'cpu' else 'bfloat16'}
  if case.as_accelerators and target.kind == 'cpu':
    kernels |= {'attention_implementation': 'mosaic', 'moe_implementation': 'mosaic'}
  with case.plant(), _products(case, target):
    step = compile_step(ModelConfig(**(case.model | kernels)), recipe, mesh, sharding, target)
  sent: dict[str, int] = {}
  for total in totals(step.collectives):
    key = f'{total.kind} {"+".join(total.axes)}'
    sent[key] = sent.get(key, 0) + total.result_bytes
  found = [dataclasses.asdict(one) | {'sentence': one.sentence} for one in step.findings]
  return {'findings': found, 'arguments': step.arguments, 'sent': sent}


@contextlib.contextmanager
def _products(case: Case, target: targets.Target) -> Iterator[None]:
  """Differentiates products as accelerators do, and attends and routes by kernels' stand-ins."""
  from aevo_jax.models.layers import linear

  if not case.as_accelerators or target.kind != 'cpu':
    yield
    return
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
  import kernel_stand_ins

  kernel_stand_ins.install()
  with mock.patch.object(linear, '_gradients_on_cpu', linear._gradients):
    yield


def _good() -> dict[str, Case]:
  scanned = {'scan': True, 'remat_policy': 'block'}
  tied = {'tie_word_embeddings': True}
  tensor = {
    'embed': 'fsdp', 'batch': 'fsdp', 'heads': 'tensor', 'mlp': 'tensor', 'vocab': 'tensor',
  }  # fmt: skip
  experts = {
    'embed': 'fsdp', 'experts': 'expert', 'batch': ('fsdp', 'expert'), 'heads': 'expert',
    'vocab': 'expert', 'mamba_inner': 'expert',
  }  # fmt: skip
  return {
    'fsdp': Case(DENSE, 'fsdp'),
    'fsdp_hybrid_lora': Case(HYBRID | scanned, 'fsdp', adaptation='lora'),
    'fsdp_tensor': Case(DENSE | {'remat_policy': 'block'}, 'fsdp_tensor'),
    'fsdp_tensor_chunk_lora': Case(
      DENSE | scanned, 'fsdp_tensor', adaptation='lora', train={'logits_chunk': 32}
    ),
    'expert_lora': Case(EXPERTS | scanned, 'expert', adaptation='lora'),
    'expert': Case(EXPERTS | {'remat_policy': 'block'}, 'expert'),
    'context': Case(DENSE | scanned, 'context'),
    'context_hybrid': Case(HYBRID, 'context'),
    'hybrid': Case(EXPERTS, 'hybrid'),
    'hybrid_tied': Case(DENSE | {'tie_word_embeddings': True}, 'hybrid'),
    'fsdp_dots_tied': Case(DENSE | tied | {'remat_policy': 'dots', 'scan': True}, 'fsdp'),
    'fsdp_microbatches': Case(DENSE, 'fsdp', train={'microbatches': 2, 'batch_rows': 32}),
    'fsdp_as_on_cpus': Case(DENSE | {'remat_policy': 'block'}, 'fsdp', as_accelerators=False),
    'pairs': Case(DENSE | {'num_key_value_heads': 2}, {'fsdp': 4, 'tensor': 2}, tensor),
    'tensor_alone': Case(DENSE, {'tensor': 4, 'data': 2}, tensor | {'embed': (), 'batch': 'data'}),
    'expert_wide_hybrid': Case(HYBRID, {'fsdp': 4, 'expert': 2}, experts),
    'long_context': Case(DENSE, {'context': 8}, {'embed': 'context', 'length': 'context'}),
    'context_experts_lora': Case(EXPERTS | scanned, 'context', adaptation='lora'),
    'data': Case(DENSE, {'data': 8}, {'batch': 'data'}),
    'words': Case(
      HYBRID | {'vocab_size': 1024, 'pattern': 'M*-'}, {'fsdp': 8},
      {'embed': 'fsdp', 'batch': 'fsdp'}, train={'logits_chunk': 64}, adaptation='lora',
    ),
  }  # fmt: skip


def _patched(target: str, name: str, change: Callable[[Any], Any]) -> Plant:
  """Makes a plant that puts `change(what was there)` in the place of a module's attribute."""

  @contextlib.contextmanager
  def plant() -> Iterator[None]:
    module = importlib.import_module(target)
    owner, _, attribute = name.rpartition('.')
    holder = getattr(module, owner) if owner else module
    with mock.patch.object(holder, attribute, change(getattr(holder, attribute))):
      yield

  return plant


def _relaid(*logical: str | None) -> Callable[[Any], Any]:
  """Lays a function's result out by logical axes."""

  def change(function):
    from aevo_jax.sharding.context import constrain

    @functools.wraps(function)
    def changed(*args, **kwargs):
      return constrain(function(*args, **kwargs), *logical)

    return changed

  return change


def _whole_stream(run_block):
  """Lays the residual stream out whole before every block."""

  @functools.wraps(run_block)
  def changed(policy, block, x, segments, **options):
    import jax
    from jax.sharding import PartitionSpec

    x = jax.lax.with_sharding_constraint(x, PartitionSpec(None, None, None))
    return run_block(policy, block, x, segments, **options)

  return changed


def _not_gathered(gather_weight):
  """Leaves the head as it lies, so that every chunk of logits gathers it."""
  return lambda x, *logical: x


def _bad() -> dict[str, Case]:
  return {
    # Rows are on every device: all do the same.
    'no_batch': Case(DENSE, 'fsdp', {'batch': None}, array="'fsdp'", rule='batch'),
    'unused_axis': Case(
      DENSE, {'fsdp': 4, 'spare': 2}, {'embed': 'fsdp', 'batch': 'fsdp'}, array="'spare'",
      rule='batch',
    ),
    'no_length': Case(DENSE, 'context', {'length': None}, array="'context'", rule='batch'),
    # Half a head on each device.
    'half_heads': Case(
      DENSE | {'num_key_value_heads': 2, 'head_dim': 32}, 'fsdp_tensor', {'kv_heads': 'tensor'},
      array='k_proj.kernel', rule='kv_heads',
    ),
    'no_embed': Case(
      DENSE, 'fsdp_tensor', {'embed': None, 'vocab': None}, array='embedding', rule='embed',
    ),
    'rank': Case(
      DENSE, 'fsdp_tensor', {'lora_rank': 'tensor', 'heads': None, 'mlp': None, 'vocab': None},
      adaptation='lora', array='lora_', rule='lora_rank',
    ),
    'whole_stream': Case(
      DENSE, 'fsdp', plant=_patched('aevo_jax.models.decoder', 'run_block', _whole_stream),
      array='layers.0.mixer.o_proj.kernel', source='aevo_jax/models/decoder.py',
      rule='batch',
    ),
    'wide_mlp': Case(
      DENSE, 'fsdp_tensor',
      plant=_patched('aevo_jax.models.layers.mlp', 'activate', _relaid('batch', 'length', None)),
      array='up_proj.kernel', source='models/layers/mlp.py', rule='mlp',
    ),
    'chunks': Case(
      DENSE, 'fsdp', train={'logits_chunk': 16}, adaptation='lora',
      plant=_patched('aevo_jax.models.decoder', 'gather_weight', _not_gathered),
      array='lm_head.kernel', source='token_logprobs.py', rule='embed',
    ),
    'whole_logits': Case(
      DENSE, 'fsdp_tensor',
      plant=_patched('aevo_jax.models.decoder', 'Decoder.logits',
                     _relaid('batch', 'length', None)),
      array='lm_head.kernel', source='', rule='vocab',
    ),
  }  # fmt: skip


def _everywhere(function):
  """Lays a function's result out whole on every device."""

  @functools.wraps(function)
  def changed(*args, **kwargs):
    import jax
    from jax.sharding import PartitionSpec

    return jax.lax.with_sharding_constraint(function(*args, **kwargs), PartitionSpec())

  return changed


def _twice(call):
  """Multiplies with two copies of a weight that the compiler cannot tell are one."""

  @functools.wraps(call)
  def changed(self, x, kernel=None):
    import jax

    from aevo_jax.models.layers.linear import Kernel

    weight = self.kernel[...].astype(x.dtype) if kernel is None else kernel[0]
    first, second = jax.lax.optimization_barrier((weight, weight))
    return (call(self, x, Kernel(first)) + call(self, x, Kernel(second))) / 2

  return changed


def _fresh() -> dict[str, Case]:
  """Cases that were written when the diagnosis was done; see docs/sharding.md for what it said."""
  mamba = HYBRID | {'pattern': 'M-M-'}
  return {
    'swapped_batch': Case(
      DENSE, 'fsdp_tensor', {'batch': 'tensor'}, array="'fsdp'", rule='batch'
    ),
    'embed_on_tensor': Case(
      HYBRID | {'pattern': '*E'}, {'fsdp': 2, 'tensor': 4}, {'embed': 'tensor', 'batch': 'fsdp'},
      array="'tensor'", rule='embed',
    ),
    'rows_of_experts': Case(
      EXPERTS, 'expert', {'batch': 'fsdp', 'vocab': None, 'heads': None}, array="'expert'",
      rule='batch',
    ),
    'whole_norm': Case(
      DENSE | {'remat_policy': 'block', 'scan': True}, 'context',
      plant=_patched('aevo_jax.models.layers.rms_norm', 'RMSNorm.__call__', _everywhere),
      array='segments.0.', source='rms_norm.py', rule='length',
    ),
    'whole_tokens': Case(
      EXPERTS, 'expert', plant=_patched('aevo_jax.models.layers.moe', 'flatten', _everywhere),
      array='layers.0.mixer.o_proj.kernel', source='moe.py', rule='batch',
    ),
    'whole_heads': Case(
      DENSE, 'hybrid',
      plant=_patched('aevo_jax.models.layers.attention', 'Attention._split', _everywhere),
      array='q_proj.kernel', source='Attention', rule='batch',
    ),
    'weights_twice': Case(
      mamba, 'fsdp', plant=_patched('aevo_jax.models.layers.linear', 'Linear.__call__', _twice),
      array='in_proj.kernel', source='linear.py', rule='embed',
    ),
    'no_embed_experts': Case(
      EXPERTS, {'data': 4, 'fsdp': 2}, {'vocab': 'fsdp', 'batch': ('data', 'fsdp')},
      array='experts.up_proj', rule='embed',
    ),
    'keys_first': Case(
      DENSE, 'fsdp_tensor', {'kv_heads': 'tensor', 'heads': None}, array='k_proj.kernel',
      rule='kv_heads',
    ),
    'states': Case(
      mamba, 'context',
      plant=_patched('aevo_jax.models.layers.ssd', 'context.layout_in_use', lambda f: lambda: None),
      array='in_proj.kernel', source='ssd.py', rule='length',
    ),
  }  # fmt: skip


MESHES = ('fsdp', 'fsdp_tensor', 'expert', 'context', 'hybrid')
PLAIN = {mesh: Case(DENSE, mesh) for mesh in MESHES}
GOOD = _good()
BAD = _bad() | _fresh()


def main(name: str, cases: list[str]) -> None:
  target = targets.parse(name)
  # Kernels of simulated devices never run here.
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_backend_optimization_level=0'
  targets.prepare(target, layout.checkout_root())
  for case in cases:
    kind, _, called = case.partition(':')
    chosen = {'good': GOOD, 'bad': BAD, 'plain': PLAIN}[kind]
    for one in chosen if called == '*' else called.split(','):
      found = compiled(chosen[one], target)
      print(json.dumps({'case': f'{kind}:{one}'} | found), flush=True)


if __name__ == '__main__':
  main(sys.argv[1], sys.argv[2:])
