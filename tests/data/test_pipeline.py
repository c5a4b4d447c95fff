"""Batches are deterministic, resume exactly, keep sequences whole, and weigh only what is to be
learned.
"""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from aevo_jax.data import tokenizer as base_tokenizer
from aevo_jax.data.chat_format import chat_sequence, plain_sequence
from aevo_jax.data.pipeline import PretrainSource, SftSource, batches
from aevo_jax.tasks.mixture import FAMILIES, FamilyWeights, Mixture, SolutionStyle, item_at

ROWS, ROW_LENGTH = 4, 128
TOKENIZER = base_tokenizer.build()
ID = {token: TOKENIZER.token_to_id(token) for token in base_tokenizer.SPECIALS}
SFT = SftSource(3, Mixture(), TOKENIZER)
PRETRAIN = PretrainSource(
  3,
  Mixture(),
  TOKENIZER,
  skill_share=0.4,
  chat_share=0.2,
  worked_share=0.3,
  steps_share=0.5,
  given_weight=1.0,
)
MIXED = dataclasses.replace(SFT, plain_share=0.5, reasoning_weight=0.25)
SOURCES = pytest.mark.parametrize(
  'source', [SFT, MIXED, PRETRAIN], ids=['sft', 'mixed', 'pretrain']
)


def take(iterator, count: int) -> list[dict[str, np.ndarray]]:
  return list(itertools.islice(iterator, count))


def assert_same(left: list, right: list) -> None:
  assert len(left) == len(right)
  for a, b in zip(left, right, strict=False):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


def segments(batch: dict[str, np.ndarray]):
  """(tokens, weights) of every packed segment."""
  for tokens, weights, ids in zip(
    batch['tokens'], batch['weights'], batch['segment_ids'], strict=True
  ):
    for segment in range(1, ids.max() + 1):
      yield tokens[ids == segment], weights[ids == segment]


def key(tokens: np.ndarray, weights: np.ndarray) -> tuple:
  return tuple(tokens.tolist()), tuple(weights.tolist())


@SOURCES
def test_shapes_and_types(source):
  for batch in take(batches(source, rows=ROWS, row_length=ROW_LENGTH), 3):
    assert {name: (a.shape, a.dtype.name) for name, a in batch.items()} == {
      'tokens': ((ROWS, ROW_LENGTH), 'int32'),
      'weights': ((ROWS, ROW_LENGTH), 'float32'),
      'segment_ids': ((ROWS, ROW_LENGTH), 'int32'),
    }


@SOURCES
def test_two_iterators_agree_and_seeds_do_not(source):
  def draw(s):
    return take(batches(s, rows=ROWS, row_length=ROW_LENGTH), 12)

  assert_same(draw(source), draw(source))
  assert not np.array_equal(
    draw(source)[0]['tokens'], draw(dataclasses.replace(source, seed=4))[0]['tokens']
  )


@SOURCES
@pytest.mark.parametrize('cut', [0, 1, 5, 17])
def test_resume_equals_uninterrupted(source, cut):
  """The state goes through JSON, as a checkpoint stores it, and into an iterator that has or has
  not moved.
  """
  whole = take(batches(source, rows=ROWS, row_length=ROW_LENGTH), 25)
  interrupted = batches(source, rows=ROWS, row_length=ROW_LENGTH)
  assert_same(take(interrupted, cut), whole[:cut])
  state = json.loads(json.dumps(interrupted.get_state()))
  take(interrupted, 2)
  fresh, used = (
    batches(source, rows=ROWS, row_length=ROW_LENGTH),
    batches(source, rows=ROWS, row_length=ROW_LENGTH),
  )
  take(used, 3)
  for resumed in (interrupted, fresh, used):
    resumed.set_state(state)
    assert_same(take(resumed, 25 - cut), whole[cut:])


@SOURCES
def test_packing_neither_splits_nor_loses_a_sequence(source):
  """Every segment is one whole sequence of the source, in one stretch of one row; the first items
  all arrive, once.
  """
  drawn = take(batches(source, rows=ROWS, row_length=ROW_LENGTH), 20)
  packed = [key(*s) for batch in drawn for s in segments(batch)]
  expected = [key(s.tokens, s.weights) for s in (source[i] for i in range(len(packed) + 60))]
  remaining = list(expected)
  for sequence in packed:
    remaining.remove(sequence)
  # First-fit packing holds back at most what its open bins hold; nothing of the first part may be
  # missing.
  assert not set(remaining) & set(expected[: len(packed) // 2]) - set(expected[len(packed) // 2 :])
  for batch in drawn:
    for ids in batch['segment_ids']:
      used = ids[ids > 0]
      assert (
        np.array_equal(ids[: len(used)], used)
        and np.all(np.diff(used) >= 0)
        and np.all(np.diff(used) <= 1)
        and used[0] == 1
      )
  # Packing is worth something: most of a row is used.
  assert np.mean([batch['segment_ids'] > 0 for batch in drawn]) > 0.8


@SOURCES
def test_prompts_and_padding_weigh_nothing(source):
  for batch in take(batches(source, rows=ROWS, row_length=ROW_LENGTH), 10):
    padding = batch['segment_ids'] == 0
    assert np.all(batch['tokens'][padding] == ID['<|pad|>']) and np.all(
      batch['weights'][padding] == 0
    )
    for tokens, weights in segments(batch):
      assert tokens[-1] == ID['<|eos|>'] and weights[-1] == 1 and weights[0] == 0
      assert list(tokens).count(ID['<|eos|>']) == 1
      if tokens[0] == ID['<|user|>']:
        answer = list(tokens).index(ID['<|assistant|>']) + 1
        assert np.all(weights[:answer] == 0)
        assert np.all(weights[answer:] > 0) and tokens[answer:].size
      else:
        assert tokens[0] == ID['<|bos|>'] and np.all(weights[1:] == 1)


def test_weights_of_one_item_by_hand():
  """reasoning_weight falls on the worked solution, 1 on the boxed answer and the end."""
  item = item_at(
    3,
    'train',
    0,
    Mixture(weights=FamilyWeights(*[float(n == 'bit_manipulation') for n in FAMILIES])),
  )
  sequence = chat_sequence(item, TOKENIZER, reasoning_weight=0.25)

  def length(text):
    return len(TOKENIZER.encode(text, add_special_tokens=False).ids)

  box = 3 + len(item.answer) + 1 + 1  # \ boxed { ... } <|eos|>
  reasoning = length(item.reasoning)
  prompt = length(item.question) + 2
  assert sequence.weights.tolist() == [0.0] * prompt + [0.25] * reasoning + [1.0] * box
  assert (
    TOKENIZER.decode(sequence.tokens[prompt:].tolist(), skip_special_tokens=False)
    == item.reasoning + rf'\boxed{{{item.answer}}}<|eos|>'
  )


def test_given_weight_by_hand():
  """What an example gives weighs `given_weight`; what follows `>` weighs 1, up to and with the
  space that ends it.
  """
  sequence = plain_sequence('bits 01>10 11>00', TOKENIZER, given_weight=0.5)
  #        <|bos|> bits  _    0    1    >    1    0    _    1    1    >    0    0  <|eos|>
  expected = [0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0]
  assert sequence.weights.tolist() == expected
  assert plain_sequence('bits 01>10 11>00', TOKENIZER).weights.tolist() == [0.0] + [1.0] * 14
  light, full = (
    take(
      batches(dataclasses.replace(PRETRAIN, given_weight=w), rows=ROWS, row_length=ROW_LENGTH), 1
    )[0]
    for w in (0.5, 1.0)
  )
  np.testing.assert_array_equal(light['tokens'], full['tokens'])
  assert light['weights'].sum() < full['weights'].sum()


@pytest.mark.parametrize('style', ['worked', 'steps'])
def test_worked_and_steps_share_of_pretraining_are_live(style):
  """A worked plain puzzle spells its solution between `: ` and the answer."""
  source = dataclasses.replace(
    PRETRAIN, skill_share=0.0, chat_share=0.0, worked_share=1.0, steps_share=float(style == 'steps')
  )
  for index in range(20):
    item = item_at(3, 'train', index, Mixture())
    stem = item.question.removesuffix('=?')
    assert (
      TOKENIZER.decode(source[index].tokens.tolist(), skip_special_tokens=False)
      == f'<|bos|>{stem}: {item.solution(style)}>{item.answer}<|eos|>'
    )
    never = dataclasses.replace(source, worked_share=0.0)[index]
    assert (
      TOKENIZER.decode(never.tokens.tolist(), skip_special_tokens=False)
      == f'<|bos|>{stem}>{item.answer}<|eos|>'
    )


def test_solution_style_is_live():
  item = item_at(3, 'train', 0, Mixture())
  worked, bare = (chat_sequence(item, TOKENIZER, style=style) for style in ('worked', 'bare'))
  dropped = len(TOKENIZER.encode(item.reasoning, add_special_tokens=False).ids)
  assert dropped > 0 and len(worked.tokens) == len(bare.tokens) + dropped
  assert set(bare.weights.tolist()) == {0.0, 1.0}
  source = dataclasses.replace(
    SFT, solution_style=SolutionStyle(unit_conversion='steps', bit_manipulation='bare')
  )
  seen = set()
  for index in range(100):
    drawn = item_at(SFT.seed, 'train', index, SFT.mixture)
    style = {'unit_conversion': 'steps', 'bit_manipulation': 'bare'}.get(drawn.family, 'worked')
    np.testing.assert_array_equal(
      source[index].tokens, chat_sequence(drawn, TOKENIZER, style=style).tokens
    )
    seen.add(drawn.family)
  assert seen == {name for name, family in FAMILIES.items() if family.weight}
  with pytest.raises(
    ValueError, match=r"solution_style.unit_conversion must be one of .* got 'long'"
  ):
    SolutionStyle(unit_conversion='long')


def test_reasoning_weight_is_live():
  plain, light = (
    take(
      batches(dataclasses.replace(SFT, reasoning_weight=w), rows=ROWS, row_length=ROW_LENGTH), 1
    )[0]
    for w in (1.0, 0.25)
  )
  np.testing.assert_array_equal(plain['tokens'], light['tokens'])
  assert set(np.unique(light['weights'])) == {0.0, 0.25, 1.0} and set(
    np.unique(plain['weights'])
  ) == {0.0, 1.0}


def test_shares_are_shares():
  """plain_share of the SFT source; skill and chat shares of the pretraining source. Binomial, five
  standard deviations of 1,000.
  """

  def first(source):
    return [source[i].tokens[0] for i in range(1000)]

  def near(count, p):
    return abs(count - 1000 * p) <= 5 * (1000 * p * (1 - p)) ** 0.5

  assert near(first(dataclasses.replace(SFT, plain_share=0.3)).count(ID['<|bos|>']), 0.3)
  assert ID['<|bos|>'] not in first(SFT)
  assert near(first(PRETRAIN).count(ID['<|user|>']), 0.2)
  tags = {TOKENIZER.token_to_id(family.tag) for family in FAMILIES.values()}

  def starts_with_tag(source):
    return sum(source[i].tokens[1] in tags for i in range(1000))

  assert starts_with_tag(dataclasses.replace(PRETRAIN, skill_share=1.0, chat_share=0.0)) == 0
  assert near(1000 - starts_with_tag(PRETRAIN), 0.4)


def test_demonstrations_come_round_and_are_the_first_of_the_endless_stream():
  few, of = (
    dataclasses.replace(SFT, demonstrations=7),
    lambda source, i: (source[i].tokens.tolist(), source[i].weights.tolist()),
  )
  assert (
    [of(few, i) for i in range(21)]
    == 3 * [of(SFT, i) for i in range(7)]
    != [of(SFT, i) for i in range(21)]
  )


def test_training_data_is_of_the_train_split():
  """The SFT source shows item i of the train split, and nothing else."""
  for index in range(50):
    expected = chat_sequence(item_at(3, 'train', index, Mixture()), TOKENIZER)
    np.testing.assert_array_equal(SFT[index].tokens, expected.tokens)


def test_too_long_a_sequence_is_refused():
  lengths = [len(SFT[i].tokens) for i in range(40)]
  take(batches(SFT, rows=1, row_length=max(lengths)), 1)
  with pytest.raises(
    ValueError,
    match=(
      r'a sequence of \d+ tokens does not fit train\.row_length = 40; raise it or use '
      r'size "micro"'
    ),
  ):
    take(batches(SFT, rows=1, row_length=40), 1)
