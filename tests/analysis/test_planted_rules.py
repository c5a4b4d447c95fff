"""Bad rules and layers that contradict them are named, good ones are not; figures by hand."""

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

import planted_rules
import pytest

from aevo_jax import layout
from aevo_jax.analysis.diagnosis.expected import Asked
from aevo_jax.analysis.diagnosis.idle import idle
from aevo_jax.config import loading
from aevo_jax.config.configurables import resolve
from aevo_jax.models.config import ModelConfig
from aevo_jax.sharding.rules import Sharding
from aevo_jax.training.recipe.recipe import Adaptation, Recipe

ROOT = layout.root_file('constitution.gin').parent
# Those that no compiler is needed for.
BY_RULES = (
  'no_batch', 'unused_axis', 'no_length', 'half_heads', 'no_embed', 'swapped_batch',
  'embed_on_tensor', 'rows_of_experts', 'no_embed_experts',
)  # fmt: skip


def compiled(*cases: str) -> dict[str, dict[str, Any]]:
  """What one process says of some cases, by case."""
  done = subprocess.run(
    [sys.executable, 'tests/analysis/planted_rules.py', 'cpux8', *cases],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]
  return {row['case']: row for row in rows}


def names(case: planted_rules.Case, found: list[dict[str, Any]]) -> bool:
  """Whether one finding has the array, the place and the rule of a case."""
  for one in found:
    is_named = case.array in one['array'] and case.source in one['source']
    if is_named and case.rule in one['rules'] and one['fix']:
      return True
  return False


def by_rules(case: planted_rules.Case) -> list[dict[str, Any]]:
  """What rules alone tell."""
  sizes = case.mesh
  rules = case.rules
  if isinstance(case.mesh, str):
    loading.load([f'configs/meshes/{case.mesh}.gin'], [], search_paths=layout.search_paths())
    sizes = resolve('mesh').sizes(8)
    rules = resolve('sharding').rules | rules
  bound = Sharding({n: axes for n, axes in rules.items() if axes is not None}).bind(sizes)
  recipe = Recipe(adaptation=Adaptation(case.adaptation))
  asked = Asked.of(ModelConfig(**case.model), recipe, bound, 'gpu')
  return [dataclasses.asdict(one) for one in idle(asked)]


@pytest.mark.parametrize('name', BY_RULES)
def test_what_rules_leave_undone_is_named_without_a_compiler(name):
  case = planted_rules.BAD[name]
  assert names(case, by_rules(case))


@pytest.mark.parametrize('name', sorted(planted_rules.GOOD))
def test_good_rules_leave_nothing_undone(name):
  assert by_rules(planted_rules.GOOD[name]) == []


def test_a_bad_layer_is_named_and_good_rules_are_not():
  found = compiled('bad:wide_mlp', 'good:fsdp')
  assert found['good:fsdp']['findings'] == []
  assert names(planted_rules.BAD['wide_mlp'], found['bad:wide_mlp']['findings'])


def test_all_planted_rules():
  """Twenty bad cases are each named with array, place and rule, and none of twenty good ones."""
  found = compiled('bad:*', 'good:*')
  assert len(planted_rules.BAD) == len(planted_rules.GOOD) == 20
  missed = []
  for name, case in planted_rules.BAD.items():
    if not names(case, found[f'bad:{name}']['findings']):
      missed.append(name)
  alarms = [name for name in planted_rules.GOOD if found[f'good:{name}']['findings']]
  assert (missed, alarms) == ([], [])


# The two layers of planted_rules.DENSE: elements of all matrices of a kind.
LAYERS, VOCAB, WIDTH, LENGTH, ROWS = 2, 384, 256, 128, 2
QUERIES = LAYERS * 2 * WIDTH * 8 * 24  # and outputs
KEYS = LAYERS * 2 * WIDTH * 4 * 24  # and values
MLPS = LAYERS * 3 * WIDTH * 640
TABLE = VOCAB * WIDTH  # the embedding, and the head
NORMS = (2 * LAYERS + 1) * WIDTH
HEAD_NORMS = LAYERS * 2 * 24
FLOAT = 4
MATRICES = QUERIES + KEYS + MLPS + TABLE  # that rows are multiplied with
STREAM = ROWS * LENGTH * WIDTH * FLOAT
ONE_KEY = ROWS * LENGTH * 4 * 24 * FLOAT  # keys, or values, of a layer
SCALARS = 1024


def near(bytes_: float) -> Any:
  """Norms' gradients, ids and scalars are not counted one by one."""
  return pytest.approx(bytes_, abs=30 * SCALARS)


def test_state_and_collectives_of_two_layers_by_hand():
  found = compiled('plain:*')
  sent = {mesh: found[f'plain:{mesh}']['sent'] for mesh in planted_rules.MESHES}
  # Parameters and two moments, and three arrays of a batch; norms of heads lie whole.
  by_mesh = {
    'fsdp': (MATRICES + TABLE + NORMS) / 8,
    'fsdp_tensor': (QUERIES + MLPS + 2 * TABLE) / 8 + (KEYS + NORMS) / 2,
    'expert': (QUERIES + 2 * TABLE) / 8 + (KEYS + MLPS + NORMS) / 2,
    'context': (MATRICES + TABLE + NORMS) / 8,
    'hybrid': (QUERIES + MLPS + 2 * TABLE) / 4 + (KEYS + NORMS) / 2,
  }
  for mesh, elements in by_mesh.items():
    length = LENGTH / 4 if mesh == 'context' else LENGTH
    held = 3 * FLOAT * (elements + HEAD_NORMS) + 3 * FLOAT * ROWS * length
    assert found[f'plain:{mesh}']['arguments'] == pytest.approx(held, abs=64), mesh

  # FSDP: weights are gathered once, where the compiler keeps them for the backward pass; their
  # gradients are summed once; rows of the embedding go to their devices and back.
  fsdp = sent['fsdp']
  assert fsdp['all-gather fsdp'] == near(FLOAT * MATRICES)
  assert fsdp['all-reduce fsdp'] == near(FLOAT * MATRICES)
  assert fsdp['all-to-all fsdp'] == 2 * STREAM

  # Context: weights over both axes; keys and values, and their gradients, over one.
  context = sent['context']
  assert context['all-gather fsdp+context'] == near(FLOAT * MATRICES)
  assert context['all-reduce fsdp+context'] == near(FLOAT * MATRICES)
  assert context['all-gather context'] == near(LAYERS * 2 * ONE_KEY)
  assert context['all-reduce context'] == near(LAYERS * 2 * ONE_KEY)

  # Tensor parallelism: a sum behind attention and MLP, one for the gradients of the inputs of
  # queries, gates and ups each, one for the head's, and two of the embedding.
  sums = LAYERS * (2 + 3) + 1 + 2
  for mesh, parts in (('fsdp_tensor', 4), ('hybrid', 2)):
    assert sent[mesh]['all-reduce tensor'] == near(sums * STREAM)
    cut = FLOAT * (QUERIES + MLPS + TABLE) / parts
    assert cut * 0.99 < sent[mesh]['all-gather fsdp'] < 2 * cut
    # Gradients of keys' weights are cut along heads as those of queries are.
    assert sent[mesh]['all-reduce fsdp'] == near(FLOAT * MATRICES / parts)
  # Only gradients cross between hosts.
  assert sent['hybrid']['all-reduce data'] == near(FLOAT * (MATRICES + TABLE) / 4)

  # Experts' mesh without experts: all but queries and head are summed half over four devices.
  assert sent['expert']['all-reduce fsdp'] == near(FLOAT * MATRICES)
  assert sent['expert']['all-reduce expert'] == near(FLOAT * (QUERIES + TABLE + (KEYS + MLPS) / 2))
