"""Meshes that are suggested: what there is, what is pruned and why, and what is sent, by hand."""

import pathlib

import pytest

from aevo_jax import layout
from aevo_jax.analysis.hardware import Hardware
from aevo_jax.analysis.strategies import suggestion, traffic
from aevo_jax.config import loading
from aevo_jax.config.configurables import resolve
from aevo_jax.models.config import ModelConfig
from aevo_jax.sharding.rules import Sharding
from aevo_jax.training.placement import shapes_of
from aevo_jax.training.recipe.memory_estimate import estimate_memory
from aevo_jax.training.recipe.recipe import Adaptation, Lora, Optimizer, Recipe, Train

ROOT = pathlib.Path(layout.search_paths()[0])
MESHES = sorted((ROOT / 'configs' / 'meshes').glob('*.gin'))
CHIP = Hardware(memory_gb=1.0, devices_of_host=4, link_gb_s=1.0, network_gb_s=0.1)
# Two layers: 64 wide, 4 heads of 16 with 2 key heads, an MLP of 32, 128 words.
TWO_LAYERS = ModelConfig(
  family='qwen3',
  pattern='*-',
  vocab_size=128,
  hidden_size=64,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=16,
  intermediate_size=32,
  mlp_activation='swiglu',
  qk_norm=True,
  rope_theta=1e4,
  tie_word_embeddings=True,
  compute_dtype='bfloat16',
)
RECIPE = Recipe(optimizer=Optimizer(learning_rate=1e-3), train=Train(batch_rows=8, row_length=32))
# embedding, q and o, k and v; gate, up and down
MATRICES = 128 * 64 + 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 32


def published() -> dict[str, tuple]:
  read = {}
  for path in MESHES:
    loading.load([str(path)], [], search_paths=layout.search_paths())
    read[path.stem] = (resolve('mesh'), resolve('sharding'))
  return read


def problem(**changed) -> suggestion.Problem:
  fields = {
    'config': TWO_LAYERS,
    'recipe': RECIPE,
    'hardware': CHIP,
    'platform': 'cpu',
    'sharding': Sharding(),
  }
  return suggestion.Problem(**(fields | changed))


AXES = {'data': ('batch',), 'fsdp': ('embed', 'batch'), 'tensor': ('vocab', 'heads', 'mlp')}


def test_every_published_mesh_is_among_all_meshes():
  files = published()
  axes = suggestion.axes_of(list(files.values()))
  assert list(axes) == ['data', 'fsdp', 'expert', 'context', 'tensor']
  listed = {mesh.name: mesh for mesh in suggestion.all_meshes(axes, 8)}
  for stem, name in {
    'fsdp': 'fsdp8',
    'fsdp_tensor': 'fsdp2_tensor4',
    'expert': 'fsdp2_expert4',
    'context': 'fsdp2_context4',
    'hybrid': 'data2_fsdp2_tensor2',
  }.items():
    mesh, sharding = files[stem]
    assert listed[name].sizes == mesh.sizes(8)
    for logical in sharding.rules.keys() | listed[name].rules.keys():
      assert set(axes_in(listed[name].rules, logical)) == set(axes_in(sharding.rules, logical))


def axes_in(rules, logical) -> tuple[str, ...]:
  axes = rules.get(logical, ())
  return (axes,) if isinstance(axes, str) else tuple(axes)


def test_no_mesh_comes_twice_and_none_has_an_axis_of_one():
  axes = suggestion.axes_of(list(published().values()))
  listed = suggestion.all_meshes(axes, 64)
  assert len(listed) == len({tuple(mesh.sizes.items()) for mesh in listed}) == 210
  assert len({mesh.name for mesh in listed}) == 210
  assert all(min(mesh.sizes.values()) > 1 for mesh in listed)
  assert suggestion.all_meshes(axes, 1) == [suggestion.Mesh({'data': 1}, {'batch': 'data'})]


def test_a_suggested_mesh_is_a_mesh_file(tmp_path):
  (mesh,) = [one for one in suggestion.all_meshes(AXES, 8) if one.name == 'fsdp4_tensor2']
  path = tmp_path / 'mine.gin'
  path.write_text(mesh.gin)
  loading.load([str(path)], [], search_paths=layout.search_paths())
  assert resolve('mesh').sizes(8) == {'fsdp': 4, 'tensor': 2}
  assert resolve('sharding').rules == mesh.rules


def test_an_axis_for_experts_is_left_out_where_there_are_none():
  axes = {'fsdp': ('embed',), 'expert': ('experts', 'vocab')}
  (left_out,) = suggestion.without_effect(axes, problem().model)
  assert left_out == ('axis expert', 'the model has no experts')
  moe = ModelConfig(pattern='ME*')
  model = shapes_of(moe, Adaptation(), Lora())
  assert suggestion.without_effect(axes, model) == []


def test_the_fewest_rows_are_those_that_legal_meshes_divide():
  meshes = suggestion.all_meshes(AXES, 8)
  assert suggestion.fewest_rows(meshes, problem()) == 8
  only = [mesh for mesh in meshes if mesh.sizes.get('tensor') == 4]
  assert suggestion.fewest_rows(only, problem()) == 2
  # Experts' axes cut rows too, so that heads are gathered.
  rules = {'heads': 'expert', 'batch': 'expert'}
  mesh = suggestion.Mesh({'expert': 8}, rules)
  found, _ = suggestion.best([mesh], problem(), 1, temporary=lambda problem, layout: 0)
  assert [one.mesh for one in found] == [mesh]


# Bytes that a step takes beside its state, by the parts into which a mesh cuts rows.
BESIDE = {8: 100_000, 4: 200_000, 2: 400_000}


def best(most=3, **changed) -> tuple[list[suggestion.Suggested], dict[str, str]]:
  found, pruned = suggestion.best(
    suggestion.all_meshes(AXES, 8),
    problem(**changed),
    most,
    temporary=lambda problem, layout: BESIDE[layout.shards('batch')],
  )
  return found, dict(pruned)


def chip(size: float) -> Hardware:
  return Hardware(memory_gb=size / 1e9, devices_of_host=4, link_gb_s=1.0, network_gb_s=0.1)


def test_the_best_send_the_least_and_every_other_mesh_has_a_reason():
  found, pruned = best()
  sending = [one.sending for one in found]
  assert len(found) == 3 and sending == sorted(sending)
  assert len(pruned) == 7 and not pruned.keys() & {one.mesh.name for one in found}
  assert pruned['tensor8'] == "4 heads of '*' blocks cannot be spread over 8 devices"
  everything, none_behind = best(most=10)
  assert [one.mesh for one in everything[:3]] == [one.mesh for one in found]
  assert all('more than those compiled' not in reason for reason in none_behind.values())


def test_state_that_does_not_fit_is_pruned_by_its_exact_bytes():
  """AdamW holds weights and two moments in float32, with eight scalars of the training state."""
  norms = 3 * 64 + 2 * 16  # those of queries and keys are cut by no rule
  whole = 12 * (MATRICES + norms) + 8 * 4
  by_fsdp = 12 * (MATRICES / 8 + 3 * 64 / 8 + 2 * 16) + 8 * 4
  found, pruned = best(most=10, hardware=chip(1e9))
  states = {one.mesh.name: one.state for one in found}
  assert states['data8'] == whole and states['fsdp8'] == by_fsdp
  _, pruned = best(hardware=chip(whole - 1))
  assert pruned['data8'] == 'its state takes 0.0003222 GB of 0.000322207 GB on each device'


def test_what_a_step_takes_is_pruned_too_and_the_next_mesh_comes_in():
  state = {one.mesh.name: one.state for one in best(most=10)[0]}
  room = state['fsdp8'] + BESIDE[8]
  found, pruned = best(most=1, hardware=chip(room))
  assert [one.mesh.name for one in found] == ['fsdp8'] and found[0].temporary == BESIDE[8]
  fsdp4 = state['fsdp4_tensor2'] + BESIDE[4]
  assert pruned['fsdp4_tensor2'].startswith(
    f'state and, by the estimate, a step take {fsdp4 / 1e9:.4g} GB of'
  )
  none, pruned = best(hardware=chip(room - 1))
  assert none == [] and len(pruned) == 10


def test_the_estimate_is_that_of_aevo_shapes():
  layout_ = Sharding({'embed': 'fsdp', 'batch': 'fsdp'}).bind({'fsdp': 8})
  expected = estimate_memory(
    TWO_LAYERS, RECIPE, layout_, rows=8, row_length=32, platform='cpu'
  ).temporary('none')
  assert suggestion.estimated(problem(), layout_) == expected > 0


def test_a_replicated_model_over_the_limit_is_refused_as_by_train():
  _, pruned = best(sharding=Sharding(replicated_limit_mib=0.001))
  assert 'sharding.replicated_limit_mib' in pruned['data8']


def sent(sizes, rules, recipe=RECIPE) -> dict[str, float]:
  model = shapes_of(TWO_LAYERS, recipe.adaptation, recipe.lora)
  listed = traffic.sent(TWO_LAYERS, recipe, model, Sharding(rules).bind(sizes))
  return {f'{one.what} {"+".join(one.axes)}': one.size for one in listed}


def test_fsdp_gathers_weights_twice_and_scatters_gradients_by_hand():
  found = sent({'fsdp': 8}, {'embed': 'fsdp', 'batch': 'fsdp'})
  # Norms that lie along 'embed' are cut as matrices are: one before each layer, and the last.
  cut = MATRICES + 3 * 64
  assert found['weights fsdp'] == pytest.approx(cut * 2 * 2 * 7 / 8)
  assert found['gradients fsdp'] == pytest.approx(cut * 4 * 7 / 8 + 2 * 2 * 16 * 4 * 7 / 8)


def test_data_parallelism_sums_all_gradients_by_hand():
  found = sent({'data': 8}, {'batch': 'data'})
  assert found == {'gradients data': pytest.approx((MATRICES + 3 * 64 + 2 * 16) * 4 * 2 * 7 / 8)}


def test_a_tensor_mesh_sums_the_stream_twice_a_layer_by_hand():
  found = sent({'tensor': 2}, {'vocab': 'tensor', 'heads': 'tensor', 'mlp': 'tensor'})
  stream = 8 * 32 * 64 * 2
  assert found == {'sums tensor': pytest.approx(2 * 4 * stream / 2)}


def test_context_gathers_keys_and_values_by_hand():
  found = sent({'context': 4}, {'embed': 'context', 'length': 'context'})
  keys = 8 * 32 * 2 * 16 * 2
  assert found['keys and values context'] == pytest.approx(3 * 2 * keys * 3 / 4)


def test_frozen_weights_have_no_gradients():
  recipe = Recipe(
    optimizer=RECIPE.optimizer, train=RECIPE.train, adaptation=Adaptation('lora'), lora=Lora(rank=2)
  )
  found = sent({'fsdp': 8}, {'embed': 'fsdp', 'batch': 'fsdp'}, recipe)
  assert found['gradients fsdp'] < 0.1 * found['weights fsdp']


def test_hosts_are_slower():
  listed = [traffic.Sent('weights', ('fsdp',), 1e9), traffic.Sent('gradients', ('data',), 1e9)]
  assert traffic.seconds(listed, CHIP, {'data': 2, 'fsdp': 4}) == pytest.approx(1 + 10)
