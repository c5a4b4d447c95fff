"""The files beside a base's weights are checked wherever a base comes in or goes out."""

import json
import re

import pytest
import saved_base

from aevo_jax import layout
from aevo_jax.data import corpus
from aevo_jax.evaluation import base_model, stored_model
from aevo_jax.export import trained
from aevo_jax.models import weights
from aevo_jax.models.hf import checkpoint
from aevo_jax.substrate import from_hf, hf_export, hf_import

ROOT = layout.root_file('substrate').parent
RECIPE = layout.root_file('substrate') / 'recipe.gin'


def build(base, out):
  from_hf.write(base, out, recipe=RECIPE, package_root=ROOT)


def train(base, out):
  checkpoint.read_config(base)
  corpus.load(base)


def write_weights(base, out):
  """As an export of a run does."""
  checkpoint.read_config(base)
  trained.write_weights(base, out, {}, saved_base.QWEN3)


ENTRANCES = {
  'import': hf_import.import_hf,
  'export': hf_export.export_hf,
  'build': build,
  'train': train,
  'export_trained': write_weights,
  'evaluate': lambda base, out: base_model.read(base),
}


def put(name, **fields):
  """Puts fields into a JSON file."""

  def change(base):
    path = base / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))

  return change


def text(name, content):
  return lambda base: (base / name).write_text(content)


def without(*names):
  def change(base):
    for name in names:
      (base / name).unlink()

  return change


TOKENIZER = 'tokenizer_config.json'
GENERATION = 'generation_config.json'
# A flaw of a base, and what is said of it.
FLAWS = {
  'tokenizer_config cut off': (text(TOKENIZER, '{'), f'{TOKENIZER} is not JSON'),
  'tokenizer_config a list': (text(TOKENIZER, '[]'), f'{TOKENIZER} must hold a JSON object'),
  'tokenizer_config missing': (without(TOKENIZER), f'there is no .*{TOKENIZER}'),
  'eos unknown': (put(TOKENIZER, eos_token='zzz'), "eos_token 'zzz' is not in tokenizer.json"),
  'eos null': (put(TOKENIZER, eos_token=None), 'has no eos_token'),
  'eos no token': (put(TOKENIZER, eos_token={'id': 2}), r"eos_token = {'id': 2} \(only a text"),
  'pad a number': (put(TOKENIZER, pad_token=3), r'pad_token = 3 \(only a text'),
  'template broken': (text('chat_template.jinja', '{% if %}'), 'does not render'),
  'template empty': (text('chat_template.jinja', ''), 'has no chat_template'),
  'template missing': (without('chat_template.jinja'), 'has no chat_template'),
  'generation a list': (text(GENERATION, '[]'), f'{GENERATION} must hold a JSON object'),
  'end without embedding': (put(GENERATION, eos_token_id=9999), 'has 9999 as eos_token_id'),
  'end no id': (put(GENERATION, eos_token_id='a'), r"eos_token_id = 'a' \(only a token id"),
  'padding without embedding': (put(GENERATION, pad_token_id=112), 'has 112 as pad_token_id'),
  'tokenizer missing': (without('tokenizer.json'), 'no tokenizer.json; save the tokenizer as'),
  'tokenizer damaged': (text('tokenizer.json', '{"model": 1}'), 'damaged or no tokenizer'),
  'config: end': (put('config.json', eos_token_id=99999), 'eos_token_id = 99999'),
  'config: padding': (put('config.json', pad_token_id=-1), 'pad_token_id = -1'),
  'config: beginning': (put('config.json', bos_token_id='x'), "bos_token_id = 'x'"),
  'config: a flag': (put('config.json', use_cache='yes'), "use_cache = 'yes'"),
}


@pytest.mark.parametrize(('change', 'said'), FLAWS.values(), ids=FLAWS)
def test_a_flawed_base_is_refused_at_every_entrance(tmp_path, change, said):
  base = saved_base.write(tmp_path / 'base')
  change(base)
  for name, enter in ENTRANCES.items():
    with pytest.raises(ValueError, match=said):
      enter(base, tmp_path / 'out')
    assert [path.name for path in tmp_path.iterdir()] == ['base'], name


LFS = 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n'


@pytest.mark.parametrize(
  'name', ['model.safetensors', 'config.json', 'tokenizer.json', TOKENIZER, GENERATION]
)
def test_a_pointer_of_git_lfs_is_told_from_a_damaged_file(tmp_path, name):
  base = saved_base.write(tmp_path / 'base')
  (base / name).write_text(LFS)
  for enter in (hf_import.import_hf, hf_export.export_hf, build):
    with pytest.raises(ValueError, match=rf"{name} .*; it is Git LFS's pointer .*`git lfs pull`"):
      enter(base, tmp_path / 'out')
    assert [path.name for path in tmp_path.iterdir()] == ['base']


@pytest.mark.parametrize('name', ['model.safetensors', 'adapter_model.safetensors'])
def test_a_pointer_in_place_of_weights_to_be_scored_is_named(tmp_path, name):
  base = saved_base.write(tmp_path / 'base')
  (tmp_path / 'adapter').mkdir()
  (tmp_path / 'adapter' / 'adapter_config.json').write_text(
    json.dumps({'base_model_name_or_path': str(base)})
  )
  folder = base if name == 'model.safetensors' else tmp_path / 'adapter'
  (folder / name).write_text(LFS)
  with pytest.raises(ValueError, match='`git lfs pull`'):
    stored_model.read(folder / name, base)


def test_weights_without_any_tokenizer_are_imported_with_a_remark(tmp_path):
  base = saved_base.write(tmp_path / 'base')
  without('tokenizer.json', TOKENIZER, 'chat_template.jinja', GENERATION)(base)
  done = hf_import.import_hf(base, tmp_path / 'imported')
  assert re.search('no tokenizer in .*: it can be imported and exported; to train', done.remarks[0])
  hf_export.export_hf(tmp_path / 'imported', tmp_path / 'exported')
  with pytest.raises(ValueError, match=f'there is no .*{TOKENIZER}'):
    train(tmp_path / 'imported', None)


# What config.json says, and what it says beside float32 weights once it was imported or exported.
CORRECTED = {
  'a dtype': ({'torch_dtype': 'int8'}, {'torch_dtype': 'float32'}),
  'two dtypes': ({'torch_dtype': 'int8', 'dtype': 'float16'}, {'torch_dtype': 'float32'}),
  'an integer': ({'hidden_size': 16.0}, {'hidden_size': 16}),
  'an id': ({'eos_token_id': [2.0]}, {'eos_token_id': [2]}),
}


@pytest.mark.parametrize(('said', 'true'), CORRECTED.values(), ids=CORRECTED)
def test_config_json_is_made_true_of_the_weights_with_a_remark(tmp_path, said, true):
  base = saved_base.write(tmp_path / 'base', config=said)
  done = hf_import.import_hf(base, tmp_path / 'imported')
  name = next(iter(said))
  exported = hf_export.export_hf(base, tmp_path / 'exported')
  for remarks in (done.remarks, exported.remarks):
    assert f'{name} was {said[name]!r} and is {true[name]!r}' in ' '.join(remarks)
  trained.write_weights(base, tmp_path / 'trained', weights.load(base), saved_base.QWEN3)
  build(base, tmp_path / 'built')
  for out in ('imported', 'exported', 'trained', 'built/base'):
    written = json.loads((tmp_path / out / 'config.json').read_text())
    assert {key: repr(written.get(key)) for key in said} == {
      key: repr(true.get(key)) for key in said
    }, out


def test_a_config_json_that_is_true_is_copied_byte_for_byte(tmp_path):
  base = saved_base.write(tmp_path / 'base')
  content = (base / 'config.json').read_bytes().replace(b': ', b':\t')
  (base / 'config.json').write_bytes(content)
  assert not hf_import.import_hf(base, tmp_path / 'imported').remarks
  hf_export.export_hf(tmp_path / 'imported', tmp_path / 'exported')
  assert (tmp_path / 'exported' / 'config.json').read_bytes() == content
