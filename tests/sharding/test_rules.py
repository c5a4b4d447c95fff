"""Meshes and rules: what they resolve to, and that each mistake is a sentence that names axis, rule
and fix before anything is allocated.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

import aevo_jax.models.config  # noqa: F401  registers model.*
from aevo_jax import layout
from aevo_jax.config import loading
from aevo_jax.config.configurables import LoadError, resolve
from aevo_jax.models.params import abstract, logical_axes, unbind
from aevo_jax.sharding.mesh import MeshConfig
from aevo_jax.sharding.rules import PARAMETER_AXES, Sharding

MESHES = sorted(layout.root_file('configs').glob('meshes/*.gin'))
MODELS = sorted(layout.root_file('configs').glob('models/[nq]*.gin'))


def shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


def bound(sizes=None, **rules):
  return Sharding(rules).bind(sizes or {'fsdp': 2, 'tensor': 4})


@pytest.mark.parametrize(
  ('axes', 'hosts', 'devices', 'expected'),
  [
    ({'fsdp': -1}, {}, 8, {'fsdp': 8}),
    ({'fsdp': -1, 'tensor': 4}, {}, 64, {'fsdp': 16, 'tensor': 4}),
    ({'fsdp': -1, 'tensor': 2}, {'data': 2}, 8, {'data': 2, 'fsdp': 2, 'tensor': 2}),
    ({'fsdp': 8}, {'data': -1}, 64, {'data': 8, 'fsdp': 8}),
  ],
)
def test_sizes(axes, hosts, devices, expected):
  sizes = MeshConfig(axes, hosts).sizes(devices)
  assert sizes == expected and list(sizes) == [*hosts, *axes]


@pytest.mark.parametrize(
  ('axes', 'hosts', 'devices', 'said'),
  [
    ({'fsdp': 3}, {}, 8, r"\{'fsdp': 3\} need 3 devices and there are 8; bind mesh.axes"),
    ({'fsdp': -1, 'tensor': 3}, {}, 8, 'need a multiple of 3 devices and there are 8'),
    ({'fsdp': -1, 'tensor': 16}, {}, 8, 'need a multiple of 16 devices and there are 8'),
    ({'fsdp': -1, 'tensor': -1}, {}, 8, 'only one size may be -1'),
    ({'fsdp': 0}, {}, 8, "'fsdp' has size 0"),
    ({'fsdp': 4}, {'fsdp': 2}, 8, r"both name \['fsdp'\]"),
    ({}, {'data': 8}, 8, 'hosts without axes'),
  ],
)
def test_a_wrong_mesh_is_a_sentence(axes, hosts, devices, said):
  with pytest.raises(ValueError, match=said):
    MeshConfig(axes, hosts).sizes(devices)


def test_specs():
  layout_ = bound(embed='fsdp', mlp='tensor', batch=('fsdp', 'tensor'))
  specs = layout_.parameter_specs(
    {'up': shape(8, 16), 'norm': shape(8), 'stacked': shape(3, 8, 16), 'dt': shape(5)},
    {
      'up': ('embed', 'mlp'),
      'norm': ('embed',),
      'stacked': ('layers', 'embed', 'mlp'),
      'dt': ('mamba_heads',),
    },
  )
  assert specs == {
    'up': P('fsdp', 'tensor'),
    'norm': P('fsdp'),
    'stacked': P(None, 'fsdp', 'tensor'),
    'dt': P(None),
  }
  assert layout_.spec('batch', 'length', None) == P(('fsdp', 'tensor'), None, None)
  assert layout_.shards('embed', 'mlp') == 8 and layout_.shards('vocab') == 1
  assert hash(layout_) == hash(bound(embed='fsdp', mlp='tensor', batch=('fsdp', 'tensor')))


@pytest.mark.parametrize(
  ('rules', 'shapes', 'axes', 'said'),
  [
    (
      {'embed': 'fsdp'},
      {'a.kernel': shape(8, 7)},
      {'a.kernel': ('mlp', 'embed')},
      (
        r"a.kernel: dimension 1 \('embed', size 7\) cannot be divided by 2, the size of "
        r"mesh axis fsdp; change sharding.rules for 'embed'"
      ),
    ),
    (
      {'embed': 'fsdp', 'experts': 'fsdp'},
      {'r.kernel': shape(8, 8)},
      {'r.kernel': ('embed', 'experts')},
      "r.kernel: the rules of 'embed' and 'experts' both use mesh axis 'fsdp'",
    ),
    # 33,554,433 numbers of 2 bytes are 64 MiB and a little.
    (
      {'embed': 'fsdp'},
      {'big': shape(33_554_433)},
      {'big': ('vocab',)},
      r"big: 64 MiB of bfloat16 would lie on each of 8 devices; give one of \['vocab'\] a rule",
    ),
  ],
)
def test_a_parameter_that_the_rules_do_not_fit_is_named(rules, shapes, axes, said):
  with pytest.raises(ValueError, match=said):
    bound(**rules).parameter_specs(shapes, axes)


def test_what_is_small_or_on_one_device_may_be_whole():
  assert bound(embed='fsdp').parameter_specs({'x': shape(33_554_432)}, {'x': ('vocab',)}) == {
    'x': P(None)
  }
  assert bound({'fsdp': 1}, embed='fsdp').parameter_specs(
    {'x': shape(2**30)}, {'x': ('vocab',)}
  ) == {'x': P(None)}


@pytest.mark.parametrize(
  ('rules', 'said'),
  [
    ({'embd': 'fsdp'}, "no logical axis 'embd'; did you mean 'embed'"),
    ({'layers': 'fsdp'}, "'layers' is never sharded"),
    ({'embed': ('fsdp', 'fsdp')}, "'embed' names a mesh axis twice"),
    ({'batch': 'fsdp', 'length': 'fsdp'}, "'batch' and 'length' both use mesh axis 'fsdp'"),
    (
      {'embed': 'fdsp'},
      "'embed' goes to mesh axis 'fdsp', which the mesh has not; did you mean 'fsdp'",
    ),
  ],
)
def test_a_rule_for_an_unknown_axis_names_the_nearest(rules, said):
  with pytest.raises(ValueError, match=said):
    bound(**rules)


def test_batches_are_divided():
  layout_ = bound(batch='fsdp', length='tensor')
  layout_.check_batch(2, 4)
  with pytest.raises(
    ValueError, match=r'train.batch_rows = 3 cannot be divided by 2, the size of mesh axis fsdp'
  ):
    layout_.check_batch(3, 4)
  with pytest.raises(
    ValueError, match=r'train.row_length = 6 cannot be divided by 4, the size of mesh axis tensor'
  ):
    layout_.check_batch(2, 6)


def test_decoding_has_rows_where_training_has_rows_and_positions():
  layout_ = bound(batch='fsdp', length='tensor', embed='fsdp').of_generation()
  assert layout_.spec('batch', 'length', 'embed') == P(('fsdp', 'tensor'), None, 'fsdp')
  assert bound(embed='fsdp').of_generation() == bound(embed='fsdp')


def test_gin_gives_both():
  loading.load(
    [str(MESHES[0])], ["sharding.rules = {'embd': 'fsdp'}"], search_paths=layout.search_paths()
  )
  with pytest.raises(LoadError, match="did you mean 'embed'"):
    resolve('sharding')


@pytest.mark.parametrize('path', MESHES, ids=lambda path: path.stem)
def test_every_mesh_file_fits_the_large_presets(path):
  """On 8 and 64 devices, or on the one that it is for."""
  for model in MODELS:
    loading.load([str(model), str(path)], [], search_paths=layout.search_paths())
    config = resolve('model')
    kinds = abstract(
      type(config)(**{**vars(config), 'pattern': ''.join(dict.fromkeys(config.pattern))})
    )  # a block of each kind
    axes = logical_axes(kinds)
    assert {axis for names in axes.values() for axis in names} <= set(PARAMETER_AXES)
    for devices in (1,) if path.stem == 'single' else (8, 64):
      sizes = resolve('mesh').sizes(devices)
      specs = resolve('sharding').bind(sizes).parameter_specs(unbind(kinds)[1], axes)
      assert devices == 1 or any(any(spec) for spec in specs.values())
