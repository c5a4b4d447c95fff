"""From a model's words to recipes: what is repaired, what is sent back, and that nothing but
recipes of the space comes out.
"""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aevo_jax.config.search_space import SearchSpace
from aevo_jax.config.statements import Binding
from aevo_jax.meta_agent.llm import reply as reply_lib
from aevo_jax.meta_agent.llm.dialogue import (
  Answer,
  GaveUpError,
  Recorded,
  ReplyError,
  TranscriptError,
  converse,
)

SPACE = SearchSpace.from_literals(
  {
    'ema': {'train.ema_decay': {'kind': 'float', 'low': 0.5, 'high': 0.99}},
    'batch': {'train.batch_rows': {'kind': 'choice', 'choices': [2, 4, 8]}},
    'schedule': {
      'optimizer.schedule': {'kind': 'choice', 'choices': ['cosine', 'wsd']},
      'optimizer.decay_fraction': {
        'kind': 'float',
        'low': 0.1,
        'high': 0.8,
        'when': {'optimizer.schedule': ['wsd']},
      },
    },
  }
)
DEFAULTS = {
  'train.ema_decay': 0.0,
  'train.batch_rows': 4,
  'optimizer.schedule': 'cosine',
  'optimizer.decay_fraction': 0.2,
}
WSD = {'optimizer.schedule': 'wsd', 'optimizer.decay_fraction': 0.3}


def policy(*recipes, count=None, standing=None, **more):
  text = json.dumps(
    {
      'assignments': [
        {'bindings': r, 'reason': 'why'} if isinstance(r, (str, dict)) else r for r in recipes
      ]
    }
    | more
  )
  return reply_lib.read_policy(
    text, len(recipes) if count is None else count, standing or {}, SPACE, DEFAULTS
  )


def changes(choice):
  return [a.changes for a in choice.assignments]


def test_gin_text_and_objects_mean_the_same_and_ints_become_floats():
  assert changes(
    policy("train.batch_rows = 8\noptimizer.schedule = 'wsd'", {'train.ema_decay': 0.9})
  ) == [{'train.batch_rows': 8, 'optimizer.schedule': 'wsd'}, {'train.ema_decay': 0.9}]
  choice = policy(
    {'train.batch_rows': 8, 'train.ema_decay': 0.9},
    promote=[{'bindings': WSD, 'reason': 'r'}, 5],
    sentences=['  two\nlines ', 7, '', 'x' * 999],
  )
  assert choice.assignments[0].axis == 'ema + batch' and choice.assignments[0].reason == 'why'
  assert [p.changes for p in choice.proposals] == [WSD] and choice.sentences == (
    'two lines',
    'x' * reply_lib.SENTENCE,
  )


@pytest.mark.parametrize(
  'wrapped',
  ['{}', 'Sure!\n```json\n{}\n```\nDone.', '```\n{}```', 'Here: {} and that was it.', '\n\n {}  '],
)
def test_prose_and_fences_around_the_json_are_harmless(wrapped):
  text = json.dumps({'assignments': [{'bindings': {'train.batch_rows': 8}, 'reason': 'r'}]})
  assert changes(reply_lib.read_policy(wrapped.replace('{}', text), 1, {}, SPACE, DEFAULTS)) == [
    {'train.batch_rows': 8}
  ]


def answer(batch_rows: int) -> str:
  return json.dumps(
    {'assignments': [{'bindings': {'train.batch_rows': batch_rows}, 'reason': 'r'}]}
  )


# What stands before or around the answer, whose batch_rows is 8; drafts say 2.
REPLIES = {
  'a draft while thinking': f'<think>\nFirst: {answer(2)}\nNo, 8.\n</think>\n\n{answer(8)}',
  'thinking that the template opened': f'First: {answer(2)} ... no.\n</think>\n{answer(8)}',
  'fences in thinking and after': (
    f'<think>\n```json\n{answer(2)}\n```\n</think>\n```json\n{answer(8)}\n```'
  ),
  'a small object in thinking': f'<think>It is {{"train.batch_rows": 4}}.</think>\n{answer(8)}',
  'thinking twice': f'<think>{answer(2)}</think>{answer(4)}<think>no</think>\n{answer(8)}',
  'braces of prose': f'I choose from {{2, 4, 8}}:\n{answer(8)}',
  'an object in prose': f'The standing recipe is {{"train.batch_rows": 4}}, so:\n{answer(8)}',
  'a draft in prose': f'Draft: {answer(2)}\nFinal: {answer(8)}',
  'two fences': f'Draft:\n```json\n{answer(2)}\n```\nFinal:\n```json\n{answer(8)}\n```',
  'a fence with attributes': f'```json title="policy"\n{answer(8)}\n```',
  'a fence of another system': f'Sure\r\n```json\r\n{answer(8)}\r\n```',
  'a last fence without an object': f'{answer(8)}\n```\nthat is all\n```',
}


@pytest.mark.parametrize('reply', REPLIES.values(), ids=REPLIES)
def test_the_last_word_of_a_reply_counts(reply):
  assert changes(reply_lib.read_policy(reply, 1, {}, SPACE, DEFAULTS)) == [{'train.batch_rows': 8}]


@pytest.mark.parametrize(
  ('reply', 'said'),
  [
    (f'<think>\n{answer(2)} maybe', 'ends inside of <think>'),
    (f'<think>a</think> hm <think>{answer(2)}', 'ends inside of <think>'),
    (f'<think>{answer(2)}</think>', 'no JSON object'),
    (f'{answer(2)[:-1]}, {answer(8)[1:]}', "the key 'assignments' stands twice"),
    (f'[{answer(2)[:-1]}, {answer(8)[1:]}]', "the key 'assignments' stands twice"),
    ('{"assignments": [{"bindings": {"a": 1, "a": 2}}]}', "the key 'a' stands twice"),
    ('{' * 100_000, 'no JSON object'),
    ('{"a":' * 100_000, 'no JSON object'),
  ],
)
def test_a_reply_that_says_nothing_or_two_things_is_sent_back(reply, said):
  with pytest.raises(ReplyError, match=said):
    reply_lib.read_policy(reply, 1, {}, SPACE, DEFAULTS)


def test_surplus_and_double_recipes_are_left_out_and_too_few_are_named():
  a, b, c = {'train.batch_rows': 8}, {'train.batch_rows': 2}, {'train.ema_decay': 0.9}
  assert changes(policy(a, dict(a), b, c, count=2)) == [a, b]
  assert changes(policy({'train.batch_rows': 3}, a, b, count=2)) == [
    a,
    b,
  ]  # a spare one makes up for a broken one
  with pytest.raises(ReplyError) as error:
    policy(
      a, dict(a), {'train.batch_rows': 3}, {'train.batchrows': 2}, {'train.batch_rows': 4}, count=3
    )
  problems = error.value.problems
  assert (
    problems[0] == '3 different usable assignments are needed, 1 came'
    and 'same recipe' in problems[1]
    and 'expects one of [2, 4, 8], got 3' in problems[2]
  )
  assert "did you mean 'train.batch_rows'" in problems[3] and 'changes nothing' in problems[4]


def test_conditions_hold_over_the_standing_recipe():
  with pytest.raises(ReplyError, match=r'has an effect only when optimizer\.schedule'):
    policy({'optimizer.decay_fraction': 0.3})
  assert policy({'optimizer.decay_fraction': 0.4}, standing=WSD).assignments[0].overlay == WSD | {
    'optimizer.decay_fraction': 0.4
  }
  # What the standing recipe binds and the change makes meaningless is dropped from the overlay.
  assert policy({'optimizer.schedule': 'cosine'}, standing=WSD).assignments[0].overlay == {
    'optimizer.schedule': 'cosine'
  }


def test_a_worker_stays_within_its_axes():
  def read(bindings):
    text = json.dumps({'bindings': bindings, 'reason': 'r'})
    return reply_lib.read_worker(text, [SPACE.axis('ema')], {}, SPACE, DEFAULTS)

  assert read({'train.ema_decay': 0.7}).overlay == {'train.ema_decay': 0.7}
  with pytest.raises(
    ReplyError, match=r'train\.batch_rows belongs to another axis than the assigned ema'
  ):
    read({'train.ema_decay': 0.7, 'train.batch_rows': 8})


JSON = st.recursive(
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats()
  | st.text(max_size=8)
  | st.sampled_from(['train.ema_decay', 'bindings', 'assignments', 'wsd', 8, 0.9]),
  lambda inner: (
    st.lists(inner, max_size=4)
    | st.dictionaries(
      st.sampled_from(
        [
          'assignments',
          'bindings',
          'reason',
          'promote',
          'sentences',
          'train.batch_rows',
          'train.ema_decay',
          'optimizer.schedule',
          'x',
        ]
      ),
      inner,
      max_size=4,
    )
  ),
  max_leaves=12,
)


@settings(
  max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(value=JSON, cut=st.integers(0, 400), noise=st.text(max_size=10))
def test_whatever_the_words_are_only_recipes_of_the_space_or_a_refusal_come_out(value, cut, noise):
  """Gin text is left out here, which is parsed in a process of its own
  (tests/config/test_statements.py fuzzes that).
  """

  def without_text(v):
    if isinstance(v, dict):
      return {
        k: (5 if k == 'bindings' and isinstance(x, str) else without_text(x)) for k, x in v.items()
      }
    return [without_text(x) for x in v] if isinstance(v, list) else v

  whole = json.dumps(
    {'assignments': without_text(value), **(without_text(value) if isinstance(value, dict) else {})}
  )
  for text in (whole, whole[:cut], noise + whole, noise):
    try:
      choice = reply_lib.read_policy(text, 1, {}, SPACE, DEFAULTS)
    except ReplyError as error:
      assert error.problems
      continue
    for assignment in choice.assignments:
      SPACE.check([Binding(s, v) for s, v in assignment.overlay.items()], DEFAULTS)


def exchange(reply, error='', again=True, messages=({'role': 'user', 'content': 'q'},)):
  return {'messages': list(messages), 'reply': reply, 'error': error, 'detail': 'd', 'again': again}


def refuse_all(text):
  raise ReplyError([f'{text} will not do'])


def test_a_transcript_gives_the_outcome_again_and_anything_else_is_noticed():
  question = [{'role': 'user', 'content': 'q'}]
  good = Recorded(2, [exchange('', 'timeout'), exchange('yes')], None)
  assert converse(good, question, str.upper) == 'YES'
  good.check_complete()
  for dialogue, said in [
    (Recorded(2, [], None), 'no reply to attempt 0'),
    (Recorded(2, [exchange('', 'timeout')], None), 'no reply to attempt 1'),
    (
      Recorded(1, [exchange('', 'timeout')], 'another cause'),
      'should have been given up: 1 attempts; the last: timeout: d',
    ),
    (
      Recorded(1, [exchange('yes', messages=[{'role': 'user', 'content': 'other'}])], None),
      'asked something else',
    ),
  ]:
    with pytest.raises(TranscriptError, match=said):
      converse(dialogue, question, str.upper)
  with pytest.raises(GaveUpError, match='unauthorized: d'):
    converse(
      Recorded(5, [exchange('', 'unauthorized', again=False)], 'unauthorized: d'),
      question,
      str.upper,
    )
  surplus = Recorded(3, [exchange('yes'), exchange('no')], None)
  converse(surplus, question, str.upper)
  with pytest.raises(TranscriptError, match='2 exchanges are recorded, and 1 led'):
    surplus.check_complete()


def test_problems_are_sent_back_with_the_reply_in_bounded_length():
  sent = []

  class Stubborn:
    attempts, cause = 3, None

    def ask(self, attempt, messages):
      sent.append(messages)
      return Answer('no' * 10_000, '', False)

    def gave_up(self, cause):
      self.cause = cause

  stubborn = Stubborn()
  with pytest.raises(GaveUpError, match='3 attempts; the last: unusable reply'):
    converse(stubborn, [{'role': 'user', 'content': 'q'}], refuse_all)
  assert stubborn.cause.startswith('3 attempts') and [len(m) for m in sent] == [1, 3, 3]
  assert [m['role'] for m in sent[2]] == ['user', 'assistant', 'user'] and sum(
    len(m['content']) for m in sent[2]
  ) < 7000
