"""How parameters are stored and how they lie on a mesh: padded vocabularies, interleaved pieces."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.sharding import SingleDeviceSharding

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.layers.mamba2 import packed_widths
from aevo_jax.models.params import abstract, unbind
from aevo_jax.sharding import storage
from aevo_jax.sharding.mesh import MeshConfig
from aevo_jax.sharding.mesh import create as create_mesh
from aevo_jax.sharding.rules import Sharding
from aevo_jax.training.placement import Placement, shapes_of
from aevo_jax.training.recipe.recipe import Adaptation, Lora

RULES = {'embed': 'fsdp', 'vocab': 'tensor', 'mamba_inner': 'tensor', 'batch': 'fsdp'}
SIZES = {'fsdp': 2, 'tensor': 4}
CONFIG = ModelConfig(hidden_size=16, pattern='M', mamba_num_heads=4, mamba_head_dim=4, n_groups=2,
                     ssm_state_size=8, chunk_size=4, use_bias=True)  # fmt: skip


def shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


def place(config, adaptation='full'):
  """As on eight devices, but that the mesh is of one: for what is done on the host."""
  mesh = create_mesh(MeshConfig({'fsdp': 1, 'tensor': 1}), jax.devices()[:1])
  shapes = shapes_of(config, Adaptation(method=adaptation), Lora(targets='mamba'))
  return Placement.of(mesh, Sharding(RULES).bind(SIZES), shapes, config)


def test_pieces_are_interleaved_by_hand():
  packed = np.array([['z0', 'z1', 'z2', 'z3', 'x0', 'x1', 'd0', 'd1']])
  laid_out = storage.interleave(packed, (4, 2, 2), 2)
  assert laid_out.tolist() == [['z0', 'z1', 'x0', 'd0', 'z2', 'z3', 'x1', 'd1']]
  pieces = storage.take_apart(laid_out, (4, 2, 2), 2)
  assert [piece.tolist()[0] for piece in pieces] == [
    ['z0', 'z1', 'z2', 'z3'], ['x0', 'x1'], ['d0', 'd1']
  ]  # fmt: skip


def test_a_state_is_stored_as_it_was_laid_out_from():
  """Parameters, moments, and an optimizer's statistics of columns; what is alike in name only stays
  as it is.
  """
  placement = place(CONFIG)
  rng = np.random.default_rng(0)
  params = {
    name: rng.normal(size=value.shape).astype(np.float32)
    for name, value in unbind(abstract(CONFIG))[1].items()
  }
  kernel = 'layers.0.mixer.in_proj.kernel'
  columns = {kernel: np.arange(params[kernel].shape[1])}
  rows = {kernel: np.arange(params[kernel].shape[0]), 'embedding': np.arange(122)}
  state = {'params': params, 'moments': [params], 'columns': columns, 'rows': rows}
  laid_out = placement.lay_out(state, SingleDeviceSharding(jax.devices()[0]))
  assert laid_out['moments'][0]['embedding'].shape == (124, 16)
  assert not laid_out['params']['embedding'][122:].any()
  assert (
    laid_out['columns'][kernel].tolist()
    == storage.interleave(columns[kernel], packed_widths(kernel, CONFIG), 4).tolist()
  )
  assert laid_out['rows'][kernel].tolist() == rows[kernel].tolist()
  assert laid_out['rows']['embedding'].shape == (122,)
  stored = placement.stored(laid_out)
  assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), stored, state))


def test_what_lies_otherwise_on_eight_devices():
  forms = place(CONFIG).forms
  assert {name: form.placed for name, form in forms.items() if form.parts == 1} == {
    'embedding': (124, 16), 'lm_head.kernel': (16, 124)
  }  # fmt: skip
  mixer = 'layers.0.mixer'
  assert {name for name, form in forms.items() if form.parts == 4} == {
    f'{mixer}.in_proj.kernel', f'{mixer}.in_proj.bias', f'{mixer}.conv_kernel', f'{mixer}.conv_bias'
  }  # fmt: skip
  of_adapter = place(CONFIG, 'lora').forms[f'{mixer}.in_proj.lora_b']
  assert of_adapter.pieces == (16, 16, 16, 16, 4)


@pytest.mark.parametrize(
  ('rules', 'rows', 'parts'),
  [
    ({'mamba_inner': 'tensor'}, 16, 4),
    ({'mamba_inner': 'tensor'}, 68, 1),  # a column cannot be told from a row
    ({'mamba_inner': ('fsdp', 'tensor')}, 16, 1),  # 4 heads
    ({'mamba_inner': 'tensor', 'batch': 'tensor'}, 16, 1),  # weights are gathered
    ({}, 16, 1),
  ],
)
def test_parts(rules, rows, parts):
  layout = Sharding(rules).bind(SIZES)
  shapes = {'in_proj.kernel': shape(rows, 68)}
  axes = {'in_proj.kernel': ('embed', 'mamba_inner')}
  pieces = {'in_proj.kernel': (16, 16, 16, 16, 4)}
  assert storage.parts_of(layout, shapes, axes, pieces) == parts


def test_a_layer_of_interleaved_weights_is_the_layer():
  """Whole rows, and a step after a prompt."""
  model = create(CONFIG, 0)
  structure, params = unbind(model)
  placement = place(CONFIG)
  laid_out = {}
  for name, value in params.items():
    form = placement.forms.get(name)
    laid_out[name] = value
    if form is not None and form.parts > 1:
      laid_out[name] = form.lay_out(np.asarray(value))
  interleaved = placement.structure(structure, params)
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 122, (2, 9)))

  @functools.partial(jax.jit, static_argnums=0)
  def logits(structure, params):
    model = structure.bind(params)
    before = model.prefill(tokens, jnp.ones(tokens.shape, bool), 1)[1]
    return model(tokens, jnp.ones_like(tokens)), model.step(tokens[:, 0], before)[0]

  expected = logits(structure, params)
  found = logits(interleaved, jax.tree.map(jnp.asarray, laid_out))
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-6)
  # Weights in the order of files would be others to it.
  assert abs(logits(interleaved, params)[0] - expected[0]).max() > 0.01


def test_a_vocabulary_is_padded_or_refused():
  axes = {'embedding': ('vocab', 'embed')}
  layout = Sharding(RULES).bind(SIZES)
  placed = layout.padded_shapes({'embedding': shape(122, 16)}, axes)
  assert placed['embedding'].shape == (124, 16)
  assert layout.parameter_specs(placed, axes) == {'embedding': P('tensor', 'fsdp')}
  assert layout.padded((122, 14), ('vocab', 'mlp')) == (124, 14)
  strict = Sharding(RULES, pad_vocab=False).bind(SIZES)
  with pytest.raises(ValueError, match=r"'vocab', size 122\) cannot be divided by 4.*pad_vocab"):
    strict.parameter_specs(strict.padded_shapes({'embedding': shape(122, 16)}, axes), axes)
