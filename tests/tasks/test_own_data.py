"""Tasks of one's own: what is read, what is refused and where, and that no prompt is on two sides
of a split.
"""

import collections
import hashlib
import hmac
import json
import pathlib
import runpy

import pytest

from aevo_jax import layout
from aevo_jax.tasks import own_data
from aevo_jax.tasks.own_data import TaskFileError

EXAMPLE = layout.root_file('configs') / 'tasks' / 'example.jsonl'
SECRET, OTHER_SECRET = b's' * 32, b'o' * 32
TASK = {'prompt': 'What is 3 + 4?', 'answer': '7', 'family': 'sums'}


def write(path: pathlib.Path, *tasks: dict | str) -> pathlib.Path:
  path.write_text(''.join((t if isinstance(t, str) else json.dumps(t)) + '\n' for t in tasks))
  return path


def many(count: int, families: tuple[str, ...] = ('sums', 'twice')) -> list[dict]:
  return [
    {
      'prompt': f'{families[i % len(families)]} of {i}?',
      'answer': str(i),
      'family': families[i % len(families)],
    }
    for i in range(count)
  ]


@pytest.fixture(scope='module')
def example():
  return own_data.read(EXAMPLE, verifier='number')


def test_the_committed_example_is_what_its_script_writes():
  script = layout.checkout_root() / 'benchmarks' / 'example_tasks.py'
  assert runpy.run_path(str(script))['text']() == EXAMPLE.read_text()


def test_lines_become_items_in_order(tmp_path):
  path = write(
    tmp_path / 't.jsonl', *many(40), '', TASK | {'solution': ' 3 and 4 ', 'answer': ' 7 '}
  )
  tasks = own_data.read(path)
  last = tasks.items[-1]
  assert (
    last.question,
    last.answer,
    last.family,
    last.solution('worked'),
    last.solution('bare'),
  ) == ('What is 3 + 4?', '7', 'sums', '3 and 4\n', '')
  assert tasks.locations[-1] == f'{path}:42' and len(tasks.items) == 41
  # The canonical text reads back as the same items, which is what a run freezes.
  again = own_data.read(write(tmp_path / 'again.jsonl', tasks.text().rstrip('\n')))
  assert (
    again.items == tasks.items
    and again.digest == tasks.digest == hashlib.sha256(tasks.text().encode()).hexdigest()
  )


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
  plain = write(tmp_path / 'plain.jsonl', *many(40))
  marked = tmp_path / 'marked.jsonl'
  marked.write_bytes(b'\xef\xbb\xbf' + plain.read_bytes())
  assert own_data.read(marked).items == own_data.read(plain).items
  joined = tmp_path / 'joined.jsonl'
  joined.write_bytes(marked.read_bytes() * 2)
  assert own_data.read(joined).items == own_data.read(plain).items
  windows = tmp_path / 'windows.jsonl'
  windows.write_bytes(plain.read_bytes().replace(b'\n', b'\r\n'))
  assert own_data.read(windows).items == own_data.read(plain).items
  (tmp_path / 'folder').mkdir()
  for name in ('a', 'b'):
    (tmp_path / 'folder' / f'{name}.jsonl').write_bytes(marked.read_bytes())
  assert own_data.read(tmp_path / 'folder').items == own_data.read(plain).items


def test_a_decimal_comma_is_no_key_for_the_verifier_of_numbers(tmp_path):
  path = write(tmp_path / 't.jsonl', *many(40), TASK | {'answer': '0,125'})
  with pytest.raises(TaskFileError, match=r"t\.jsonl:41: .* does not take '0,125' for its own key"):
    own_data.read(path, verifier='number')


def test_a_folder_is_its_files_by_name_and_repetitions_count_once(tmp_path):
  write(tmp_path / 'b.jsonl', *many(40), TASK)
  write(tmp_path / 'a.jsonl', TASK, TASK | {'solution': 'another way'})
  (tmp_path / 'notes.txt').write_text('not a task')
  tasks = own_data.read(tmp_path)
  assert [p.rpartition('/')[2] for p in tasks.locations[:3]] == [
    'a.jsonl:1',
    'a.jsonl:2',
    'b.jsonl:1',
  ] and len(tasks.items) == 42


# -- splits ----------------------------------------------------------------------------------------


def expected_split(prompt: str, secret: bytes) -> str:
  """The rule of the documentation, written out again."""
  key = f'own|{" ".join(prompt.split()).casefold()}'
  u = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], 'big') / 2**64
  return (
    'train'
    if u < 0.6
    else 'dev'
    if u < 0.75
    else ('external', 'final')[hmac.digest(secret, key.encode(), 'sha256')[-1] % 2]
  )


def test_every_line_is_in_the_split_of_its_prompt(example):
  for split in ('train', 'dev', 'external', 'final'):
    found = {item.question for item in example.of_split(split, SECRET)}
    assert (
      found
      == {item.question for item in example.items if expected_split(item.question, SECRET) == split}
      and found
    )
  assert set(example.of_split('external', SECRET)) != set(
    example.of_split('external', OTHER_SECRET)
  )
  assert set(example.of_split('train', SECRET)) == set(example.of_split('train'))


def test_spellings_of_a_prompt_share_a_split_and_a_place_in_a_set(tmp_path):
  spellings = [
    {'prompt': p, 'answer': '1', 'family': 'sums'}
    for i in range(60)
    for p in (f'Is {i} é?', f'  IS {i}\n e\u0301?')
  ]
  tasks = own_data.read(write(tmp_path / 't.jsonl', *spellings))
  for first, second in zip(tasks.items[::2], tasks.items[1::2], strict=False):
    assert first.key == second.key
  drawn = tasks.sample('dev', 4, 1)
  assert len({item.key for item in drawn}) == 4


def test_sets_are_repeatable_disjoint_and_in_proportion(example):
  sets = {
    'dev': example.sample('dev', 40, 7),
    'external': example.sample('external', 40, b'k' * 32, SECRET),
    'final': example.sample('final', 40, b'k' * 32, SECRET),
  }
  for split, items in sets.items():
    assert {expected_split(item.question, SECRET) for item in items} == {split}
    assert collections.Counter(i.family for i in items) == dict.fromkeys(
      ('sums', 'differences', 'reversals', 'larger'), 10
    )
  assert example.sample('dev', 40, 7) == sets['dev'] != example.sample('dev', 40, 8)
  assert example.sample('external', 40, b'l' * 32, SECRET) != sets['external']


def test_uneven_families_get_their_share_and_at_least_one(tmp_path):
  lines = many(400, ('often',)) + [
    t | {'family': 'rare', 'prompt': 'rare ' + t['prompt']} for t in many(40, ('x',))
  ]
  tasks = own_data.read(write(tmp_path / 't.jsonl', *lines))
  assert collections.Counter(i.family for i in tasks.sample('dev', 22, 0)) == {
    'often': 20,
    'rare': 2,
  }
  assert collections.Counter(i.family for i in tasks.sample('dev', 3, 0)) == {'often': 2, 'rare': 1}


def test_too_few_items_say_how_many_are_needed(tmp_path):
  tasks = own_data.read(write(tmp_path / 't.jsonl', *many(100)))
  here = collections.Counter(i.family for i in tasks.of_split('dev'))
  with pytest.raises(
    TaskFileError,
    match=(
      r"family '\w+' has \d+ different prompts in the dev split, and dev_set.items = 60 "
      r'needs 30 of it; lower dev_set.items to (\d+)'
    ),
  ) as error:
    tasks.sample('dev', 60, 0)
  most = int(str(error.value).partition('lower dev_set.items to ')[2].partition(',')[0])
  assert len(tasks.sample('dev', most, 0)) == most and most // 2 <= min(here.values()) <= -(
    -(most + 1) // 2
  )
  with pytest.raises(TaskFileError, match='raise it to 2'):
    tasks.sample('dev', 1, 0)


# -- the training stream ---------------------------------------------------------------------------


def test_each_epoch_has_every_item_once_in_an_order_of_its_own(example, tmp_path):
  items = example.of_split('train')
  epochs = [
    [own_data.item_at(items, 3, e * len(items) + i) for i in range(len(items))] for e in range(3)
  ]
  assert all(collections.Counter(epoch) == collections.Counter(items) for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(items)
  assert [own_data.item_at(items, 4, i) for i in range(len(items))] != epochs[0]
  assert [own_data.item_at(items, 3, i) for i in reversed(range(len(items)))] == epochs[0][::-1]
  assert (
    own_data.read_train(write(tmp_path / 'train.jsonl', own_data.jsonl(items).rstrip('\n')))
    == items
  )


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('line', 'said'),
  [
    ("{'prompt': 'a'}", r't\.jsonl:2: not JSON .*double quotes'),
    (
      '{"prompt": "a", "answer": "1", "family": "sums", "answer": "2"}',
      ":2: the key 'answer' stands twice in one object; keep one of the two",
    ),
    ('{"prompt": "a", "answer": NaN, "family": "sums"}', ':2: not JSON .*NaN is no JSON'),
    ('[1]', ':2: expected an object'),
    ({'prompt': 'a', 'answer': 'b'}, ":2: there is no 'family'"),
    (TASK | {'solutoin': 'x'}, "no field 'solutoin' is known; did you mean 'solution'"),
    (TASK | {'answer': 7}, 'answer must be a string, got 7; put it in double quotes'),
    (TASK | {'prompt': ' '}, 'prompt is empty'),
    (TASK | {'family': 'a b'}, "family 'a b' may hold only letters"),
    (TASK | {'answer': '7}'}, 'balance its braces'),
    (TASK | {'answer': 'seven'}, "does not take 'seven'"),
    ('{"prompt": "\\ud800", "answer": "7", "family": "sums"}', 'surrogate'),
    ('{"prompt": "a\\u0000", "answer": "7", "family": "sums"}', 'holds a NUL'),
    ('{"prompt": "a", "answer": ' + '9' * 5000 + ', "family": "sums"}', 'not JSON .Exceeds'),
    ('{"prompt": "a", "answer": "7", "family": "sums",}', 'not JSON'),
    ('[' * 5000, 'not JSON'),
    ('[{"question": "a"},', 'aevo tasks convert .*t.jsonl --out=tasks.jsonl'),
    ('[{"question": "a"}]', 'aevo tasks convert .*t.jsonl --out=tasks.jsonl'),
    (TASK | {'answer': '\N{MINUS SIGN}7'}, r"own key; mend the answer \(write '-7'\)"),
    (TASK | {'answer': '\N{FULLWIDTH DIGIT SEVEN}'}, r"\(write '7'\)"),
    (TASK | {'answer': '1/2'}, "does not take '1/2' for its own key; mend the answer, or"),
    ({'messages': [{'role': 'user', 'content': 'a'}]}, "the shape 'messages' .*tasks convert"),
    ({'conversations': []}, "the shape 'ShareGPT' .*tasks convert"),
    ({'instruction': 'a', 'input': '', 'output': 'b'}, "the shape 'alpaca' .*tasks convert"),
    ({'prompt': [], 'reward_model': {}}, "the shape 'verl' .*tasks convert"),
    ({'prompt': 'a', 'completion': 'b'}, "the shape 'prompt and completion' .*tasks convert"),
    ({'question': 'a', 'answer': '#### 1'}, "the shape 'question and answer' .*tasks convert"),
    ({'problem': 'a', 'solution': 'b'}, "the shape 'problem and solution' .*tasks convert"),
    (TASK | {'prompt': [{'role': 'user'}]}, "the shape 'prompt and answer' .*tasks convert"),
    (
      TASK | {'prompt': 'sums  of 0?', 'answer': '9'},
      r"t\.jsonl:2: the answer '9' contradicts .*t\.jsonl:1, which has '0'",
    ),
    (
      TASK | {'prompt': 'sums of 0?', 'answer': '0', 'family': 'twice'},
      'the family .* contradicts',
    ),
  ],
)
def test_a_wrong_line_is_named_with_its_place_and_the_fix(tmp_path, line, said):
  path = write(tmp_path / 't.jsonl', many(1)[0], line)
  with pytest.raises(TaskFileError, match=said):
    own_data.read(path, verifier='number')


@pytest.mark.parametrize(
  ('content', 'said'),
  [
    (b'', 'holds no task'),
    (b'\n\n', 'holds no task'),
    ('é'.encode('latin-1'), 'not UTF-8'),
    ('{}'.encode('utf-16'), 'not UTF-8 .*aevo tasks convert'),
    ('{}'.encode('utf-16-le'), 'holds NUL bytes, as UTF-16 does; save it as UTF-8'),
    (b'PAR1\x15\x04\xff', 'is Parquet, .*read_parquet'),
    (b'\x1f\x8b\x08\x00', 'is packed by gzip; .*gunzip'),
    (b'PK\x03\x04', 'is packed by zip; .*unzip'),
    (None, 'there is no'),
  ],
)
def test_a_file_without_tasks_is_refused(tmp_path, content, said):
  path = tmp_path / 't.jsonl'
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(TaskFileError, match=said):
    own_data.read(path)
  with pytest.raises(TaskFileError, match='no \\*.jsonl' if content is None else said):
    own_data.read(tmp_path)


def test_a_family_without_a_line_to_train_on_is_refused(tmp_path):
  lonely = next(
    t
    for t in ({'prompt': f'lonely {i}', 'answer': '1', 'family': 'lonely'} for i in range(50))
    if expected_split(t['prompt'], SECRET) != 'train'
  )
  with pytest.raises(TaskFileError, match="no line of family 'lonely' falls into the train split"):
    own_data.read(write(tmp_path / 't.jsonl', *many(40), lonely))
