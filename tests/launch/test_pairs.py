"""Every pair of commands whose output and input fit, on a model of two layers.

A row is a result that one command made, and what the other commands do with it. The next command
that makes something joins as one entry of `MAKERS`.
"""

import functools
import json
import pathlib

import numpy as np
import pytest
import yaml
from aevo_command import aevo
from safetensors.numpy import load_file

from aevo_jax.models import weights

MODEL = (
  '--gin_file=configs/recipes/pretrain_micro.gin',
  "--gin.model.pattern='*-'",
  '--gin.optimizer.name=adamw',
)
TRAIN = ('--steps=1', '--tokens=1024', '--gin.train.batch_rows=4', '--gin.train.ema_decay=0.0')
LORA = ('--gin.adaptation.method=lora', '--gin.lora.rank=2', '--gin.lora.targets=attention')
PRETRAIN = ('--gin.pretrain.steps=1', '--gin.pretrain.rows=2', '--gin.pretrain.eval_items=6')


def ok(*arguments: str | pathlib.Path) -> str:
  """Runs a command that must succeed, and returns what it printed."""
  result = aevo(*arguments)
  assert result.returncode == 0, (arguments, result.stderr)
  return result.stdout


class Results:
  """Results of commands in one directory, each made when it is first asked for."""

  def __init__(self, root: pathlib.Path):
    self.root = root
    self.get = functools.cache(self._make)

  def _make(self, name: str) -> pathlib.Path:
    out = self.root / name.replace(' ', '_')
    MAKERS[name](self, out)
    return out


def pretrained(made: Results, out: pathlib.Path) -> None:
  ok('pretrain', *MODEL, *PRETRAIN, f'--out={out}')
  (out / 'README.md').write_text('---\nlicense: apache-2.0\n---\n\n# Mine\n')
  (out / 'LICENSE').write_text('Apache')


def imported(made: Results, out: pathlib.Path) -> None:
  ok('import_hf', made.get('pretrain'), f'--out={out}')


def exported(made: Results, out: pathlib.Path) -> None:
  ok('export_hf', made.get('import_hf'), f'--out={out}', '--max_shard_size=300KB')


def substrate(made: Results, out: pathlib.Path) -> None:
  ok('substrate', 'build', f'--from_hf={made.get("import_hf")}', f'--out={out}')


def trained(made: Results, out: pathlib.Path) -> None:
  ok('train', f'--base={made.get("substrate build") / "base"}', *TRAIN, f'--out={out}')


def adapted(made: Results, out: pathlib.Path) -> None:
  ok('train', f'--base={made.get("pretrain")}', *TRAIN, *LORA, f'--out={out}')


MAKERS = {
  'pretrain': pretrained,
  'import_hf': imported,
  'export_hf': exported,
  'substrate build': substrate,
  'train': trained,
  'train with LoRA': adapted,
}
# Where below a maker's directory its weights lie, for the commands that want them named.
WEIGHTS = {'substrate build': 'base', 'train': 'export', 'train with LoRA': 'export'}
TAKERS = {
  'evaluate': ('evaluate', '{weights}', '--items=2', '--gin.objective.max_new_tokens=2'),
  'train': ('train', '--base={weights}', *TRAIN, '--out={out}'),
  'import_hf': ('import_hf', '{weights}', '--out={out}'),
  'substrate build': ('substrate', 'build', '--from_hf={weights}', '--out={out}'),
  'export_hf': ('export_hf', '{result}', '--out={out}'),
}
# An import is no Hugging Face checkpoint, so it is not imported again.
NOT_TAKEN = {('import_hf', 'import_hf')}


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> Results:
  return Results(tmp_path_factory.mktemp('pairs'))


@pytest.mark.parametrize('taker', TAKERS)
@pytest.mark.parametrize('maker', MAKERS)
def test_what_one_command_makes_the_other_takes(made, tmp_path, maker, taker):
  result = made.get(maker)
  place = {'result': result, 'weights': result / WEIGHTS.get(maker, ''), 'out': tmp_path / 'out'}
  answer = aevo(*(part.format(**place) for part in TAKERS[taker]))
  assert 'Traceback' not in answer.stderr
  if (maker, taker) in NOT_TAKEN:
    assert answer.returncode == 1 and not (tmp_path / 'out').exists()
    return
  assert answer.returncode == 0, answer.stderr
  if taker == 'export_hf':
    same_weights(tmp_path / 'out', place['weights'])


def same_weights(one: pathlib.Path, other: pathlib.Path) -> None:
  before = weights.load(other)
  for name, value in weights.load(one).items():
    np.testing.assert_array_equal(value, before[name], err_msg=name)


def head(directory: pathlib.Path) -> dict:
  text = (directory / 'README.md').read_text()
  return yaml.safe_load(text.split('---\n')[1])


def test_a_trained_export_has_card_license_and_adapter(made, tmp_path):
  """The adapter on its base scores as the merged weights do, and merges to them."""
  run = made.get('train with LoRA')
  said = head(run / 'export')
  assert (said['license'], said['library_name']) == ('apache-2.0', 'transformers')
  assert said['base_model'] == str(made.get('pretrain')) and 'language' not in said
  assert set(said['aevo_jax']) == {'code', 'version', 'tasks'}
  assert (run / 'export' / 'LICENSE').read_text() == 'Apache'
  adapter = run / 'export' / 'adapter'
  assert head(adapter) == said | {'library_name': 'peft'}
  assert not (run / 'export' / 'adapter_config.json').exists()
  fields = json.loads((adapter / 'adapter_config.json').read_text())
  assert fields['base_model_name_or_path'] == str(made.get('pretrain')) and fields['r'] == 2
  scores = []
  for path in (adapter, run):
    scores.append(json.loads(ok('evaluate', path, '--items=6', '--json')))
  assert scores[0]['by_family'] == scores[1]['by_family']
  ok('export_hf', adapter, f'--out={tmp_path / "merged"}')
  merged = load_file(tmp_path / 'merged' / 'model.safetensors')
  for name, value in load_file(run / 'export' / 'model.safetensors').items():
    np.testing.assert_allclose(merged[name], value, atol=1e-6, err_msg=name)


def test_a_full_training_has_no_adapter_and_the_license_of_its_substrate(made):
  export = made.get('train') / 'export'
  assert not (export / 'adapter').exists()
  assert head(export)['license'] == 'apache-2.0'


@pytest.mark.parametrize(
  ('maker', 'path', 'flags', 'weights_at'),
  [
    ('train', 'checkpoints', (), 'export'),
    ('train', 'checkpoints', ('--step=1',), 'export'),
    ('train', 'checkpoints/step_00000001', (), 'export'),
    ('train with LoRA', '', ('--step=1',), 'export'),
    ('train with LoRA', 'export/model.safetensors', (), 'export'),
    ('pretrain', '', ('--step=1',), ''),
    ('pretrain', 'run/checkpoints', (), ''),
    ('substrate build', 'base', (), 'base'),
    ('import_hf', '', ('--max_shard_size=200KB',), ''),
    ('train', '', ('--max_shard_size=200KB',), 'export'),
  ],
)
def test_a_checkpoint_is_exported_as_the_run_itself_is(
  made, tmp_path, maker, path, flags, weights_at
):
  result = made.get(maker)
  said = ok('export_hf', result / path, *flags, f'--out={tmp_path / "out"}')
  assert said.startswith('found ')
  same_weights(tmp_path / 'out', result / weights_at)
  assert (tmp_path / 'out' / 'adapter').exists() == (maker == 'train with LoRA')
  if '--max_shard_size=200KB' in flags:
    assert len(list((tmp_path / 'out').glob('model-*.safetensors'))) > 1


@pytest.mark.parametrize(
  ('maker', 'path', 'flags', 'said'),
  [
    ('train', '', ('--step=7',), 'has no step 7; it has 1'),
    ('train', 'checkpoints', ('--step=0',), 'has no step 0; it has 1'),
    ('train', 'tensorboard', (), 'holds nothing that can be exported; it takes a base'),
    ('import_hf', '', ('--step=1',), '--step is of the checkpoints of a run'),
    ('import_hf', '', ('--starting',), '--starting is of a campaign, and this is the weights in'),
    ('import_hf', '', ('--base=BASE',), "--base is of a run's checkpoint or an adapter"),
    ('train', 'checkpoints', ('--base=BASE',), 'is not the base that'),
    ('import_hf', '', ('--max_shard_size=big',), '--max_shard_size=big is no size'),
  ],
)
def test_what_is_no_result_is_refused(made, tmp_path, maker, path, flags, said):
  other = made.get('train') / 'export'
  flags = [flag.replace('BASE', str(other)) for flag in flags]
  answer = aevo('export_hf', made.get(maker) / path, *flags, f'--out={tmp_path / "out"}')
  assert answer.returncode == 1 and said in answer.stderr, answer.stderr
  assert not list(tmp_path.iterdir())


def test_a_base_that_moved_is_asked_for(made, tmp_path):
  run = made.get('train')
  origin = run / 'origin.json'
  before = origin.read_text()
  base = made.get('substrate build') / 'base'
  for text, words in (
    ('{"base": "/nowhere"}', 'is no longer at /nowhere'),
    (None, 'no origin.json'),
  ):
    origin.unlink()
    if text is not None:
      origin.write_text(text)
    else:
      origin.unlink(missing_ok=True)
    answer = aevo('export_hf', run / 'checkpoints', f'--out={tmp_path / "out"}')
    assert answer.returncode == 1 and words in answer.stderr and '--base=DIRECTORY' in answer.stderr
    if text is None:
      ok('export_hf', run / 'checkpoints', f'--base={base}', f'--out={tmp_path / "out"}')
  origin.write_text(before)
  same_weights(tmp_path / 'out', run / 'export')
