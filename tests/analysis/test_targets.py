"""Targets to compile for: their names, and a compiler that is not installed."""

import json
import subprocess
import sys

import pytest

from aevo_jax import layout
from aevo_jax.analysis import targets

ROOT = layout.root_file('constitution.gin').parent
INSTALLED = (ROOT / 'third_party' / 'targets' / '.venv').exists()


@pytest.mark.parametrize(
  ('name', 'kind', 'devices'),
  [('h200x8', 'h200', 8), ('h200x64', 'h200', 64), ('cpux8', 'cpu', 8), ('v5p:2x2x2', 'tpu', 8),
   ('v6e:2x4', 'tpu', 8), ('h200x1', 'h200', 1)],
)  # fmt: skip
def test_a_name_is_read(name, kind, devices):
  assert targets.parse(name) == targets.Target(name, kind, devices)


@pytest.mark.parametrize('name', ['h200', 'h200x0', 'a100x8', 'v5p', 'v5p:', '2x2', '', 'h200x8 '])
def test_what_is_no_target_is_refused_with_examples(name):
  with pytest.raises(targets.TargetError, match='name GPUs as h200x8, a TPU slice as v5p:2x2x2'):
    targets.parse(name)


def test_gpus_fill_hosts():
  with pytest.raises(targets.TargetError, match='a multiple of 8'):
    targets.parse('h200x12')


def test_a_process_that_has_jax_is_too_late(monkeypatch):
  monkeypatch.setitem(sys.modules, 'jax', sys)
  with pytest.raises(RuntimeError, match='before JAX is imported'):
    targets.prepare(targets.parse('cpux8'), ROOT)


def shapes(*arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, '-m', 'aevo_jax.cli', 'shapes', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


MICRO = ('--gin_file=configs/models/micro_qwen3.gin', '--gin_file=configs/meshes/fsdp.gin')


def test_a_compiler_that_is_not_installed_is_named(tmp_path):
  program = (
    'import pathlib, sys; from aevo_jax.analysis import targets\n'
    f'targets.prepare(targets.parse("v5p:2x2x2"), pathlib.Path({str(tmp_path)!r}))'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=False, cwd=ROOT
  )
  assert 'TargetError: the compiler for v5p:2x2x2 is not installed; make targets' in done.stderr


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (('--compile=h100',), "shapes: --compile: 'h100' is no target"),
    (('--compile=cpux8', '--devices=4'), '--devices=4 and --compile=cpux8, which has 8'),
  ],
)
def test_a_wrong_target_is_a_sentence(arguments, said):
  done = shapes(*MICRO, *arguments)
  assert done.returncode == 1 and said in done.stderr and 'Traceback' not in done.stderr


def test_simulated_devices_gather_every_matrix_twice_by_hand():
  """The forward pass and the backward one gather every weight that is cut, in float32 here."""
  done = shapes(
    *MICRO, '--compile=cpux8', '--row_length=64', '--gin.model.remat_policy=none', '--json'
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  compiled = found['compiled']
  assert compiled['mesh'] == {'fsdp': 8}
  assert compiled['arguments'] >= found['parameters'] + found['optimizer']
  (gathered,) = [
    one for one in compiled['collectives'] if one['kind'] == 'all-gather' and one['dtype'] == 'f32'
  ]
  assert gathered['axes'] == ['fsdp']
  assert gathered['result_bytes'] == pytest.approx(2 * found['count'] * 4, rel=0.01)
  assert compiled['compiled_flops'] / compiled['useful_flops'] < 1.3


@pytest.mark.parametrize('mesh', ['context', 'fsdp_tensor'])
def test_nothing_is_made_whole_by_a_partitioner(mesh):
  """Rows of an embedding that is cut along width and words go to their devices, and back. (Two key
  heads for four devices would be cut in pieces, which is named for itself.)
  """
  done = shapes(
    MICRO[0], f'--gin_file=configs/meshes/{mesh}.gin', '--compile=cpux8', '--row_length=64',
    "--gin.model.pattern='*-'", '--gin.model.vocab_size=128', '--gin.model.num_key_value_heads=4',
    '--json',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout)['compiled']['resharded'] == []


@pytest.mark.skipif(not INSTALLED, reason='make targets')
@pytest.mark.parametrize('target', ['h200x8', 'v5p:2x2x2'])
def test_compilers_of_devices_that_are_not_there(target):
  done = shapes(
    *MICRO, f'--compile={target}', '--row_length=128', '--gin.model.compute_dtype=bfloat16',
    '--gin.model.scan=True', '--json',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  compiled = json.loads(done.stdout)['compiled']
  assert compiled['target'] == target and compiled['temporaries'] > 0
  assert compiled['gathered_bytes'] > 0
  assert 0.9 < compiled['compiled_flops'] / compiled['useful_flops'] < 2
