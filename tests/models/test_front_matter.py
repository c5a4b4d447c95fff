"""The head of a model card says what the base said, and nothing that nobody said."""

import json

import pytest
import yaml

from aevo_jax.models.hf import front_matter


def written(base, **fields) -> dict:
  defaults = {'base_model': 'mine', 'library_name': 'transformers', 'provenance': {'code': 'abc'}}
  text = front_matter.write(base, **(defaults | fields))
  assert text.startswith('---\n') and text.endswith('---\n')
  return yaml.safe_load(text.split('---\n')[1])


@pytest.mark.parametrize(
  ('card', 'said'),
  [
    (None, {'license': 'unknown'}),
    ('# No head\nlicense: mit\n', {'license': 'unknown'}),
    ('---\ntags: [a]\n---\n', {'license': 'unknown'}),
    ('---\nlicense: mit\n---\ntext', {'license': 'mit'}),
    ('---\nlicense:\n---\ntext', {'license': 'unknown'}),
    ('---\n- a list\n---\n', {'license': 'unknown'}),
    ('---\nlicense: [\n---\n', {'license': 'unknown'}),
    ('---\nlicense: "no end"\n', {'license': 'no end'}),
    (
      '---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\nlanguage: en\n---\n',
      {'license': 'other', 'license_name': 'own', 'license_link': 'LICENSE'},
    ),
  ],
)
def test_the_license_is_the_bases_or_unknown(tmp_path, card, said):
  if card is not None:
    (tmp_path / 'README.md').write_text(card)
  fields = written(tmp_path)
  assert {name: fields[name] for name in fields if name.startswith('license')} == said
  assert set(fields) - set(said) == {'base_model', 'library_name', 'tags', 'aevo_jax'}


def test_a_card_that_is_no_text_says_nothing(tmp_path):
  (tmp_path / 'README.md').write_bytes(b'---\nlicense: \xff\n---\n')
  assert front_matter.license_of(tmp_path) == {'license': 'unknown'}


@pytest.mark.parametrize(
  'value', ['a: b', "it's", '#x', '- x', 'line\nline', 'ünï', '', 'yes', '1e3', '{a}', '"']
)
def test_any_name_comes_back(tmp_path, value):
  fields = written(tmp_path, base_model=value, provenance={'tasks': value})
  assert fields['base_model'] == value and fields['aevo_jax'] == {'tasks': value}


@pytest.mark.parametrize(
  ('config', 'name'),
  [
    (None, None),
    ({'_name_or_path': 'Qwen/Q'}, 'Qwen/Q'),
    ({'_name_or_path': ''}, None),
    ({}, None),
  ],
)
def test_a_base_is_named_as_its_config_does(tmp_path, config, name):
  if config is not None:
    (tmp_path / 'config.json').write_text(json.dumps(config))
  assert front_matter.base_name(tmp_path) == (name or str(tmp_path))
