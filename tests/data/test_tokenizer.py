"""The tokenizer spells every item without loss, and chats are written as in training."""

import json
import random

import jinja2.sandbox
import pytest
import tokenizers

from aevo_jax.data import tokenizer as base_tokenizer
from aevo_jax.data.chat_format import chat_sequence, plain_sequence
from aevo_jax.data.chat_template import MICRO
from aevo_jax.tasks.item import SIZES, SOLUTION_STYLES, Puzzle, render
from aevo_jax.tasks.mixture import FAMILIES, FamilyWeights, Mixture, RareKindShare, item_at
from aevo_jax.tasks.skills import skill_text

MICRO_LIMIT = 96


@pytest.fixture(scope='module')
def tokenizer():
  return base_tokenizer.build()


def micro_items(family: str) -> list:
  """A few hundred micro items of one family, both kinds."""
  weights = FamilyWeights(**{name: float(name == family) for name in FAMILIES})
  return [
    item_at(9, split, i, Mixture('micro', weights))
    for split in ('train', 'dev', 'private')
    for i in range(300)
  ]


def ids_of(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
  return tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize('size', SIZES)
def test_round_trip_of_every_text(tokenizer, size):
  unknown = tokenizer.token_to_id('<|unk|>')
  # Symbol strings, slow to draw, are spelled with the same characters as the rest.
  mixture = Mixture(size, rare_share=RareKindShare(equation_transformation=0.05))
  items = [
    item_at(9, split, i, mixture) for split in ('train', 'dev', 'private') for i in range(300)
  ]
  rng = random.Random(1)
  texts = [
    t for i in items for t in (i.question, i.plain, i.reasoning, i.answer, rf'\boxed{{{i.answer}}}')
  ]
  texts += [skill_text(rng, size) for _ in range(1000)]
  for text in texts:
    ids = ids_of(tokenizer, text)
    assert unknown not in ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_vocabulary_is_closed_and_dense(tokenizer):
  vocabulary = tokenizer.get_vocab()
  # 6 specials, 20 words, the 95 printable ASCII characters and the newline.
  assert len(vocabulary) == 6 + 20 + 95 + 1 and sorted(vocabulary.values()) == list(
    range(len(vocabulary))
  )
  assert [tokenizer.id_to_token(i) for i in range(6)] == [
    '<|pad|>',
    '<|bos|>',
    '<|eos|>',
    '<|user|>',
    '<|assistant|>',
    '<|unk|>',
  ]
  everything = ''.join(map(chr, range(32, 127))) + '\n'
  assert tokenizer.decode(ids_of(tokenizer, everything), skip_special_tokens=False) == everything


def test_words_and_specials_are_single_tokens(tokenizer):
  def tokens(text):
    return tokenizer.encode(text, add_special_tokens=False).tokens

  assert tokens(r'bits rot1 \boxed{01}') == [
    'bits',
    ' ',
    'rot',
    '1',
    ' ',
    '\\',
    'boxed',
    '{',
    '0',
    '1',
    '}',
  ]
  assert tokens('<|user|>island<|assistant|>') == [
    '<|user|>',
    'i',
    's',
    'l',
    'and',
    '<|assistant|>',
  ]
  assert tokens('é') == ['<|unk|>']


@pytest.mark.parametrize('family', FAMILIES)
def test_micro_sequences_fit(tokenizer, family):
  for item in micro_items(family):
    assert len(chat_sequence(item, tokenizer).tokens) <= MICRO_LIMIT
    assert len(plain_sequence(item.plain, tokenizer).tokens) <= MICRO_LIMIT


def test_longest_micro_numeral_fits(tokenizer):
  """Numerals are the longest micro items. 399 is the longest additive numeral (13 letters); the
  next have 12.
  """
  shown = (('389', 'CCCLXXXVIIII'), ('398', 'CCCLXXXXVIII'), ('299', 'CCLXXXXVIIII'))
  puzzle = Puzzle('additive', shown, '399', 'CCCLXXXXVIIII', 'CCC LXXXX VIIII ', 'additive|399')
  item = render(FAMILIES['numeral_conversion'], 'additive', puzzle, 'micro')
  # <|user|> roman _ (3 + 1 + 12) x 3 + 2 _ 399 =? <|assistant|> | reasoning 13 + 3 | \ boxed { 13 }
  # <|eos|>
  assert (
    len(chat_sequence(item, tokenizer).tokens)
    == (1 + 1 + 1 + 48 + 2 + 1 + 3 + 2 + 1) + 16 + (3 + 13 + 1 + 1)
    == 94
  )


def test_saved_files_load(tmp_path, tokenizer):
  base_tokenizer.save(tmp_path, 256)
  config = json.loads((tmp_path / 'tokenizer_config.json').read_text())
  assert config['model_max_length'] == 256
  text = item_at(1, 'train', 0, Mixture()).question
  for path in (tmp_path, tmp_path / 'tokenizer.json'):
    loaded = base_tokenizer.load(str(path))
    assert loaded.get_vocab() == tokenizer.get_vocab() and ids_of(loaded, text) == ids_of(
      tokenizer, text
    )
  for role in ('pad_token', 'bos_token', 'eos_token', 'unk_token'):
    assert loaded.token_to_id(config[role]) is not None
  # Saving is deterministic: the files are pinned by digest.
  first = (tmp_path / 'tokenizer.json').read_bytes()
  base_tokenizer.save(tmp_path, 256)
  assert (tmp_path / 'tokenizer.json').read_bytes() == first


def test_missing_tokenizer_names_the_file(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'needs tokenizer.json beside its weights'):
    base_tokenizer.load(str(tmp_path))


def render_chat(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
  # As Hugging Face and vLLM render a template.
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
  return environment.from_string(base_tokenizer.CHAT_TEMPLATE).render(
    messages=messages, add_generation_prompt=add_generation_prompt
  )


@pytest.mark.parametrize('size', SIZES)
def test_chat_template_is_the_training_format(tokenizer, size):
  for index in range(20):
    item = item_at(
      4, 'train', index, Mixture(size, rare_share=RareKindShare(equation_transformation=0.0))
    )
    user = {'role': 'user', 'content': item.question}
    assert render_chat([user], True) == MICRO.prompt(item.question)
    for style in SOLUTION_STYLES:
      answer = item.solution(style) + rf'\boxed{{{item.answer}}}'
      whole = render_chat([user, {'role': 'assistant', 'content': answer}], False)
      tokens = chat_sequence(item, tokenizer, style=style).tokens.tolist()
      assert tokens == ids_of(tokenizer, whole)
      assert tokens[: len(ids_of(tokenizer, MICRO.prompt(item.question)))] == ids_of(
        tokenizer, MICRO.prompt(item.question)
      )


@pytest.mark.parametrize('written', ['truncation', 'padding', 'both'])
def test_what_transformers_left_in_the_file_cuts_and_pads_nothing(tmp_path, written):
  left = base_tokenizer.build()
  if written != 'padding':
    left.enable_truncation(4)
  if written != 'truncation':
    left.enable_padding(length=64, pad_token=base_tokenizer.PAD)
  left.save(str(tmp_path / 'tokenizer.json'))
  text = 'bits 0110 -> ' * 3
  read = base_tokenizer.load(str(tmp_path))
  assert read.encode(text).ids == base_tokenizer.build().encode(text).ids
  assert [e.ids for e in read.encode_batch([text, 'a'])] == [
    base_tokenizer.build().encode(t).ids for t in (text, 'a')
  ]


DAMAGED = {
  '': 'download it again',
  '{}': 'download it again',
  '{"model": 1}': 'download it again',
  'version https://git-lfs': '`git lfs pull`',
}


@pytest.mark.parametrize(('text', 'fix'), DAMAGED.items())
def test_a_damaged_tokenizer_is_named(tmp_path, text, fix):
  (tmp_path / 'tokenizer.json').write_text(text)
  with pytest.raises(ValueError, match=rf'tokenizer\.json is damaged or no tokenizer .* {fix}'):
    base_tokenizer.load(str(tmp_path))
