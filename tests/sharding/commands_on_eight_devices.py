"""What `aevo pretrain`, `aevo evaluate` and the sampler do on 8 simulated devices, under meshes and
without one. Run by test_commands_on_meshes.py, in a process of its own.

  commands_on_eight_devices.py sampler M*E-,*-+qwen3 fsdp,context   patterns, mesh files
  commands_on_eight_devices.py pretrain DIRECTORY
  commands_on_eight_devices.py evaluate DIRECTORY

Prints one JSON line a case.
"""

import json
import pathlib
import re
import shutil
import sys

import jax
import numpy as np
from safetensors.numpy import load_file

from aevo_jax.checkpoint import orbax_io
from aevo_jax.evaluation import scoring
from aevo_jax.generation import sampler as sampler_lib
from aevo_jax.models.decoder import create
from aevo_jax.models.params import unbind
from aevo_jax.training import train_loop
from aevo_jax.training.placement import Placement

sys.path[:0] = [str(path) for path in pathlib.Path(__file__).resolve().parents[:2]]
import on_eight_devices
import saved_base
from aevo_command import aevo

ROWS = 5  # rows of a program, which no mesh divides
BUCKET, NEW = 16, 8
MODEL = (
  '--gin_file=configs/models/micro_nemotron_h.gin',
  '--gin.model.hidden_size=32',
  "--gin.model.pattern='*-*-'",
  '--gin.model.head_dim=8',
  '--gin.model.intermediate_size=32',
)
PRETRAIN = (
  '--gin.pretrain.steps=4',
  '--gin.pretrain.rows=8',
  '--gin.pretrain.row_length=128',
  '--gin.pretrain.eval_items=1',
  '--gin.pretrain.max_new_tokens=4',
  '--gin.pretrain.checkpoint_every=2',
  # Its step is proportional to the gradient; Adam would divide the noise of small ones by itself.
  '--gin.optimizer.name=sgd',
  '--gin.optimizer.learning_rate=0.1',
)
SCANNED = '--gin.model.scan=True'


def mesh(name: str) -> str:
  return f'--gin_file=configs/meshes/{name}.gin'


def by_chip(directory: pathlib.Path) -> str:
  """A mesh that is chosen by chip: context here."""
  path = directory / 'by_chip.gin'
  path.write_text(
    "mesh.for_chip = {'cpu': 'configs/meshes/context.gin', 'h200': 'configs/meshes/fsdp.gin'}\n"
  )
  return f'--gin_file={path}'


def sampler(patterns: list[str], meshes: list[str]) -> None:
  """Greedy tokens of random models, where as many rows as fit no mesh are asked at a time."""
  rng = np.random.default_rng(1)
  prompts = [rng.integers(3, 32, n).tolist() for n in (5, 1, 9, 3, 12, 7, 2)]
  for pattern in patterns:
    kinds, *options = pattern.split('+')
    config = on_eight_devices.config_of(kinds, options)
    structure, params = unbind(create(config, seed=0))
    generate = sampler_lib.Sampler(
      structure, eos_id=2, pad_id=0, batch=ROWS, bucket=BUCKET, max_new_tokens=NEW
    )
    whole = generate(params, prompts)
    for name in meshes:
      placement: Placement = on_eight_devices.placed(name, config)
      sharded = jax.device_put(params, placement.params(params))
      with placement.use_for_generation():
        found = generate(sharded, prompts)
        gathered = gathered_in_loop(structure, sharded)
      line = {'pattern': pattern, 'mesh': name, 'whole': whole, 'sharded': found}
      print(json.dumps(line | {'gathered_in_loop': gathered}))


def gathered_in_loop(structure, params) -> int:
  """How many matrices are gathered for every token, rather than once before the first."""
  tokens = np.zeros((8, BUCKET), np.int32)
  lowered = sampler_lib.generate.lower(
    structure, params, tokens, tokens > 0, max_new_tokens=NEW, eos_id=2, pad_id=0
  )
  before_main = lowered.compile().as_text().partition('\nENTRY ')[0]
  return len(re.findall(r'= f32\[\d+,\d+\]\S* all-gather\(', before_main))


class Seen:
  """The shards of the parameters that a function is called with, last."""

  def __init__(self, owner: object, name: str, params_of):
    function = getattr(owner, name)
    self.parts: dict[str, float] = {}

    def seeing(*arguments):
      for key, value in params_of(*arguments).items():
        self.parts[key] = value.size / value.addressable_shards[0].data.size
      return function(*arguments)

    setattr(owner, name, seeing)


def pretrain(directory: pathlib.Path) -> None:
  """Four steps without a mesh, under fsdp, and two under fsdp with two under context.

  Equal blocks are scanned on meshes alone.
  """
  trained = Seen(train_loop, 'train', lambda model, *_: model.params)
  scored = Seen(scoring.Scorer, '__call__', lambda scorer, params: params)
  for name, more in (('whole', ()), ('fsdp', (mesh('fsdp'), SCANNED))):
    report(
      directory / name, aevo('pretrain', *MODEL, *PRETRAIN, *more, f'--out={directory / name}')
    )
    print(json.dumps({'trained': trained.parts, 'scored': scored.parts}))
  interrupted = directory / 'continued'
  shutil.copytree(directory / 'fsdp', interrupted)
  shutil.rmtree(orbax_io.step_directory(interrupted / 'run' / 'checkpoints', 4))
  (interrupted / 'model.safetensors').unlink()
  report(
    interrupted,
    aevo('pretrain', *MODEL, *PRETRAIN, by_chip(directory), SCANNED, f'--out={interrupted}'),
  )
  print((interrupted / 'devices.jsonl').read_text(), end='')
  refused = aevo(
    *('pretrain', *MODEL, *PRETRAIN[2:], '--gin.pretrain.steps=1', '--gin.pretrain.rows=6'),
    *(mesh('fsdp'), f'--out={directory / "refused"}'),
  )
  print(json.dumps({'status': refused.returncode, 'said': refused.stderr}))


def report(out: pathlib.Path, ended) -> None:
  """Prints how a run ended, and how far its weights and losses are from those of `whole`."""
  assert ended.returncode == 0, ended.stderr
  whole = load_file(out.parent / 'whole' / 'model.safetensors')
  weights = load_file(out / 'model.safetensors')
  facts = json.loads((out / 'pretrain.json').read_text())
  print(
    json.dumps(
      {
        'out': ended.stdout,
        'difference': on_eight_devices.difference(weights, whole),
        'loss': [loss for _, loss in facts['loss_curve']],
        'accuracy': facts['accuracy'],
      }
    )
  )


def evaluate(directory: pathlib.Path) -> None:
  """The committed base without a mesh and under context, and what is refused."""
  scored = Seen(scoring.Scorer, '__call__', lambda scorer, params: params)
  asked = ('evaluate', 'substrate/base', '--items=20', '--json')
  fewer = '--gin.objective.max_new_tokens=24'
  for more in ((), (mesh('context'),)):
    ended = aevo(*asked, fewer, *more)
    assert ended.returncode == 0, ended.stderr
    line = {'said': ended.stderr, 'result': json.loads(ended.stdout), 'scored': scored.parts}
    print(json.dumps(line))
  base = saved_base.write(directory / 'base')
  for more in (('--gin.mesh.axes={"fsdp": 3}',), (mesh('fsdp'), '--gin.sharding.rules={"a": "b"}')):
    ended = aevo('evaluate', base, *more)
    print(json.dumps({'status': ended.returncode, 'said': ended.stderr}))


if __name__ == '__main__':
  command, *arguments = sys.argv[1:]
  if command == 'sampler':
    sampler(arguments[0].split(','), arguments[1].split(','))
  else:
    {'pretrain': pretrain, 'evaluate': evaluate}[command](pathlib.Path(arguments[0]))
