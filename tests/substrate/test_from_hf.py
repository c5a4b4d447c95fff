"""A substrate of a Hugging Face directory: whole and pinned, or refused with the reason."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aevo_jax import layout
from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.export import trained
from aevo_jax.models import weights
from aevo_jax.models.hf import checkpoint
from aevo_jax.substrate import build, from_hf, hf_import, manifest
from aevo_jax.substrate.from_hf import ImportRefusedError

PACKAGE = pathlib.Path(layout.__file__).resolve().parent.parent
BASE = layout.root_file('substrate') / 'base'
RECIPE = layout.root_file('substrate') / 'recipe.gin'


@pytest.fixture
def source(tmp_path):
  """A checkpoint as people have it: half precision, the template in a file of its own, no pad token
  in generation_config, something else beside it.
  """
  folder = tmp_path / 'hf'
  shutil.copytree(BASE, folder)
  save_file(
    {
      name: value.astype(np.float16)
      for name, value in load_file(BASE / 'model.safetensors').items()
    },
    folder / 'model.safetensors',
  )
  config = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(config | {'torch_dtype': 'float16'}))
  tokenizer = json.loads((folder / 'tokenizer_config.json').read_text())
  (folder / 'chat_template.jinja').write_text(tokenizer.pop('chat_template'))
  (folder / 'tokenizer_config.json').write_text(json.dumps(tokenizer))
  (folder / 'generation_config.json').write_text(json.dumps({'eos_token_id': [2, 4], 'top_p': 0.9}))
  return folder


def make(source, out):
  return from_hf.write(source, out, recipe=RECIPE, package_root=PACKAGE)


def test_it_is_a_substrate_like_the_projects(source, tmp_path):
  out = tmp_path / 'made' / 'substrate'
  identity, unused = make(source, out)
  measured = build.measure(out, PACKAGE)
  assert (
    manifest.check(manifest.read(out / build.MANIFEST), measured) == []
    and build.identity(measured) == identity
    and unused == ()
  )
  assert (out / 'recipe.gin').read_text() == RECIPE.read_text()
  stored, given = (
    load_file(out / 'base' / 'model.safetensors'),
    load_file(source / 'model.safetensors'),
  )
  assert stored.keys() == given.keys() and all(
    v.dtype == np.float32 and np.array_equal(v, given[n].astype(np.float32))
    for n, v in stored.items()
  )

  def read(name):
    return json.loads((out / 'base' / name).read_text())

  assert (
    read('config.json')['torch_dtype'] == 'float32'
    and read('config.json')['hybrid_override_pattern'] == 'M-*-M-*-'
  )
  assert (
    read('tokenizer_config.json')['chat_template']
    == json.loads((BASE / 'tokenizer_config.json').read_text())['chat_template']
  )
  assert read('generation_config.json') == {'eos_token_id': [2, 4], 'pad_token_id': 0, 'top_p': 0.9}
  assert read('source.json')['model.safetensors'] == file_digest(source / 'model.safetensors')
  assert [p.name for p in out.parent.iterdir()] == ['substrate']


def test_shards_are_read(source, tmp_path):
  given = load_file(source / 'model.safetensors')
  (source / 'model.safetensors').unlink()
  shard = {
    name: f'model-0000{1 + i % 2}-of-00002.safetensors' for i, name in enumerate(sorted(given))
  }
  for file in set(shard.values()):
    save_file({name: given[name] for name in given if shard[name] == file}, source / file)
  (source / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': shard}))
  make(source, tmp_path / 'substrate')
  stored = load_file(tmp_path / 'substrate' / 'base' / 'model.safetensors')
  assert stored.keys() == given.keys() and all(
    np.array_equal(v, given[n].astype(np.float32)) for n, v in stored.items()
  )


def test_an_import_is_read_and_what_the_model_does_not_use_is_left_behind(source, tmp_path):
  given = load_file(source / 'model.safetensors')
  extra = {
    'mtp.layers.0.norm.weight': np.ones(3, np.float16),
    'mtp.layers.0.eh_proj.weight': np.ones((2, 3), np.float16),
  }
  save_file(given | extra, source / 'model.safetensors')
  damage(source, 'config.json', lambda c: c.update(num_nextn_predict_layers=1))
  hf_import.import_hf(source, tmp_path / 'imported')
  for folder in (source, tmp_path / 'imported'):
    out = tmp_path / f'of_{folder.name}'
    assert set(make(folder, out).unused) == set(extra)
    stored = load_file(out / 'base' / 'model.safetensors')
    assert stored.keys() == given.keys() and all(
      np.array_equal(v, given[n].astype(np.float32)) for n, v in stored.items()
    )
    assert json.loads((out / 'base' / 'config.json').read_text())['num_nextn_predict_layers'] == 0
  digests = json.loads(
    (out / 'base' / 'source.json').read_text()
  )  # of the import, whose weights lie in a folder
  assert {
    f'checkpoint/{p.relative_to(folder / "checkpoint")}'
    for p in (folder / 'checkpoint').rglob('*')
    if p.is_file()
  } < digests.keys()


def damage(folder, name, change):
  fields = json.loads((folder / name).read_text())
  change(fields)
  (folder / name).write_text(json.dumps(fields))


def not_finite(folder):
  tensors = load_file(folder / 'model.safetensors')
  tensors['lm_head.weight'][0, 0] = np.nan
  save_file(tensors, folder / 'model.safetensors')


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (
      lambda f: (f / 'tokenizer.json').unlink(),
      'has no tokenizer.json; save the tokenizer as a fast one',
    ),
    (
      lambda f: (f / 'tokenizer.json').write_text('{"model": 1}'),
      'hf/tokenizer.json is damaged or no tokenizer .*; download it again',
    ),
    (
      lambda f: (f / 'model.safetensors').rename(f / 'other'),
      'holds neither model.safetensors nor',
    ),
    (lambda f: (f / 'chat_template.jinja').unlink(), 'has no chat_template'),
    (
      lambda f: damage(f, 'tokenizer_config.json', lambda c: c.pop('pad_token')),
      'has no pad_token',
    ),
    (lambda f: damage(f, 'config.json', lambda c: c.update(model_type='gpt2')), 'model_type'),
    (
      lambda f: damage(f, 'config.json', lambda c: c.update(vocab_size=100)),
      'has token 121, and the model of config.json has a vocabulary of 100',
    ),
    (
      lambda f: damage(f, 'config.json', lambda c: c.update(hidden_size=64)),
      'does not fit the model',
    ),
    (not_finite, 'not finite in lm_head.kernel'),
  ],
)
def test_what_is_no_base_is_refused_and_leaves_nothing(source, tmp_path, change, said):
  change(source)
  with pytest.raises(ValueError, match=said):
    make(source, tmp_path / 'out' / 'substrate')
  assert not (tmp_path / 'out').exists() or not list((tmp_path / 'out').iterdir())


def test_an_existing_directory_is_left_alone(source, tmp_path):
  with pytest.raises(ImportRefusedError, match='exists; choose another --out'):
    make(source, tmp_path)


def with_unused_tensors(source, tmp_path):
  """The checkpoint with a layer that no forward pass uses."""
  tensors = load_file(source / 'model.safetensors')
  tensors['mtp.layers.0.norm.weight'] = np.ones(3, np.float16)
  save_file(tensors, source / 'model.safetensors')
  damage(source, 'config.json', lambda c: c.update(num_nextn_predict_layers=1))
  return source


def built(source, tmp_path):
  make(source, tmp_path / 'substrate')
  return tmp_path / 'substrate' / 'base'


def imported(source, tmp_path):
  hf_import.import_hf(source, tmp_path / 'imported')
  return tmp_path / 'imported'


# What --base may be, made of a checkpoint, and the dtype of the export's weights.
BASES = {
  'a checkpoint': (lambda source, tmp_path: source, 'float32'),
  'one with unused tensors': (with_unused_tensors, 'float32'),
  'a substrate of it': (built, 'float32'),
  'a substrate of one with unused tensors': (
    lambda source, tmp_path: built(with_unused_tensors(source, tmp_path), tmp_path),
    'float32',
  ),
  'an import': (imported, 'float16'),
  'an import of one with unused tensors': (
    lambda source, tmp_path: imported(with_unused_tensors(source, tmp_path), tmp_path),
    'float16',
  ),
}


@pytest.mark.parametrize(('make_base', 'dtype'), BASES.values(), ids=BASES)
def test_what_train_exports_is_what_its_config_says(source, tmp_path, make_base, dtype):
  """Also where the base was made by another command of ours."""
  base = make_base(source, tmp_path)
  config = checkpoint.read_config(base)
  params = {name: value + 2.0**-8 for name, value in weights.load(base, config).items()}
  export = tmp_path / 'run' / 'export'
  trained.write_weights(base, export, params, config)
  said = json.loads((export / 'config.json').read_text())
  stored = load_file(export / 'model.safetensors')
  assert said['torch_dtype'] == dtype == {str(t.dtype) for t in stored.values()}.pop()
  assert bool(said.get('num_nextn_predict_layers')) == any(n.startswith('mtp.') for n in stored)
  again = weights.load(export)
  for name, value in params.items():
    np.testing.assert_array_equal(again[name], np.asarray(value).astype(dtype), err_msg=name)
