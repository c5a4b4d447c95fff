"""Scoring: greedy text of a model through extraction and comparison, and the summary of what came
out.
"""

import pytest

from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.evaluation import scoring
from aevo_jax.evaluation.scoring import ItemResult
from aevo_jax.stats.intervals import wilson
from aevo_jax.tasks.mixture import Mixture, sample_set

RESULTS = [
  ItemResult('a', 'x', '1', True, True),
  ItemResult('a', 'y', '2', False, True),
  ItemResult('b', 'x', None, False, False),
]


def test_summary_counts_by_family_and_kind_with_both_verifiers():
  summary = scoring.summary(RESULTS, 'strict')
  assert summary['verifier'] == 'strict' and summary['other_verifier']['verifier'] == 'challenge'
  assert (
    summary['overall']['correct'],
    summary['overall']['total'],
    summary['overall']['accuracy'],
  ) == (1, 3, 0.333333)
  assert {k: (v['correct'], v['total']) for k, v in summary['by_family'].items()} == {
    'a': (1, 2),
    'b': (0, 1),
  }
  assert {k: (v['correct'], v['total']) for k, v in summary['by_kind'].items()} == {
    'a/x': (1, 1),
    'a/y': (0, 1),
    'b/x': (0, 1),
  }
  assert summary['other_verifier']['correct'] == 2
  low, high = wilson(1, 2)
  assert (summary['by_family']['a']['low'], summary['by_family']['a']['high']) == (
    round(low, 6),
    round(high, 6),
  )
  assert scoring.summary(RESULTS, 'challenge')['overall']['correct'] == 2


def test_rows_are_a_round_trip():
  assert scoring.from_rows(scoring.to_rows(RESULTS)) == RESULTS


class Parrot:
  """A sampler that writes given texts."""

  def __init__(self, texts, tokenizer):
    self.texts, self.tokenizer, self.prompts = texts, tokenizer, None

  def __call__(self, params, prompts):
    self.prompts = [self.tokenizer.decode(ids, skip_special_tokens=False) for ids in prompts]
    return [self.tokenizer.encode(text, add_special_tokens=False).ids for text in self.texts]


@pytest.fixture(scope='module')
def items():
  return sample_set(5, 'dev', 12, Mixture('micro'))


def scorer(items, texts):
  tokenizer = tokenizers.build()
  made = scoring.Scorer.__new__(scoring.Scorer)  # everything of a Scorer but its compiled model
  made._items, made._tokenizer, made._sampler, made._verifier, made._stops = (
    items,
    tokenizer,
    Parrot(texts, tokenizer),
    'strict',
    (),
  )
  made._prompts = [
    tokenizer.encode(f'<|bos|><|user|>{i.question}<|assistant|>', add_special_tokens=False).ids
    for i in items
  ]
  return made


def test_keys_score_one_and_other_texts_score_zero(items):
  right = scorer(items, [f'so \\boxed{{{item.answer}}}<|eos|>' for item in items])
  assert all(
    r.strict and r.challenge and r.answer == item.answer
    for r, item in zip(right({}), items, strict=True)
  )
  for text in ('', 'no box', '\\boxed{', '\\boxed{}', '<|pad|><|pad|>'):
    assert not any(r.strict or r.challenge for r in scorer(items, [text] * len(items))({})), text


def test_order_is_that_of_the_items(items):
  texts = [f'\\boxed{{{items[0].answer}}}'] + ['?'] * (len(items) - 1)
  assert [r.strict for r in scorer(items, texts)({})] == [True] + [False] * (len(items) - 1)
  assert [(r.family, r.kind) for r in scorer(items, texts)({})] == [
    (i.family, i.kind) for i in items
  ]
