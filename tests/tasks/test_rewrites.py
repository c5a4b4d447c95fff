"""The same question in another way: its answer stays, or moves with its option, and nothing is
shown that is not there.
"""

import random
import re

import pytest
from family_contracts import DEFAULT_FAMILIES

from aevo_jax.tasks import rewrites
from aevo_jax.tasks.families import bit_manipulation
from aevo_jax.tasks.item import Item, render
from aevo_jax.tasks.mixture import Mixture, RareKindShare, sample_puzzles, sample_set
from aevo_jax.tasks.rewrites import NoRewriteError

# Symbol strings are drawn slowly; other items of the family have the same form.
MIXTURES = {
  'micro': Mixture('micro'),
  'standard': Mixture('standard', rare_share=RareKindShare(equation_transformation=0.0)),
}


@pytest.mark.parametrize('size', MIXTURES)
def test_reordered_puzzles_hold_the_same_examples_in_another_order(size):
  rng = random.Random(0)
  seen = set()
  for family, kind, puzzle in sample_puzzles(3, 'dev', 60, MIXTURES[size]):
    shown = rewrites.reordered(puzzle, rng)
    assert shown.examples != puzzle.examples and sorted(shown.examples) == sorted(puzzle.examples)
    before, after = render(family, kind, puzzle, size), render(family, kind, shown, size)
    assert (after.answer, after.key, after.family) == (
      before.answer,
      before.key,
      before.family,
    ) and after.question != before.question
    assert sorted(after.question) == sorted(before.question)
    if family.name == 'bit_manipulation':  # the class' own solver, on what is shown
      n = len(puzzle.query)
      pairs = [(int(x, 2), int(y, 2)) for x, y in shown.examples]
      assert bit_manipulation.consistent_answers(pairs, int(puzzle.query, 2), n) == {
        int(after.answer, 2)
      }
    seen.add(family.name)
  assert seen == DEFAULT_FAMILIES


def test_every_family_has_a_second_wording_with_all_that_the_first_shows():
  seen = set()
  for family, kind, puzzle in sample_puzzles(4, 'dev', 60, MIXTURES['standard']):
    text, first = (
      rewrites.paraphrased(family.name, puzzle),
      render(family, kind, puzzle, 'standard').question,
    )
    for part in (*(t for example in puzzle.examples for t in example), puzzle.query):
      assert part in text and part in first
    assert '\\boxed{}' in text and '{{' not in text and text != first
    assert text.split('.')[0] != first.split('.')[0]
    seen.add(family.name)
  assert seen == DEFAULT_FAMILIES


def test_draw_puzzles_are_those_of_draw_set():
  assert sample_set(5, 'dev', 20, MIXTURES['micro']) == [
    render(*puzzle, 'micro') for puzzle in sample_puzzles(5, 'dev', 20, MIXTURES['micro'])
  ]


def choice(question, answer):
  return Item('f', 'given', '', 'k', question, answer, '', '', '')


@pytest.mark.parametrize('form', ['{}) {}', '({}) {}', '{}. {}', '  {}: {}'])
def test_options_move_with_their_text_and_the_answer_with_its_option(form):
  texts = ['red', 'green', 'blue']
  item = choice(
    'Which colour?\n'
    + '\n'.join(form.format(letter, text) for letter, text in zip('ABC', texts, strict=True))
    + '\nAnswer.',
    '(b)',
  )
  orders = set()
  for seed in range(20):
    shown, before = rewrites.relettered(item, random.Random(seed))
    read = dict(re.findall(r'^\s*\(?([A-C])[).:]\s*(\w+)$', shown.question, re.MULTILINE))
    assert sorted(read.values()) == sorted(texts) and list(read.values()) != texts
    assert read[shown.answer] == 'green' and all(
      read[letter] == texts['ABC'.index(old)] for letter, old in before.items()
    )
    assert shown.question.startswith('Which colour?\n') and shown.question.endswith('\nAnswer.')
    orders.add(tuple(read.values()))
  assert len(orders) == 5  # every order but the first


@pytest.mark.parametrize(
  ('question', 'answer'),
  [
    ('What is 3 + 4?', 'A'),
    ('A) one', 'A'),
    ('A) one\nC) two', 'A'),
    ('A) one\nB) two', 'C'),
    ('B) one\nA) two', 'A'),
  ],
)
def test_what_is_no_multiple_choice_is_refused(question, answer):
  with pytest.raises(NoRewriteError, match='has no lines'):
    rewrites.relettered(choice(question, answer), random.Random(0))
