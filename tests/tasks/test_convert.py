"""Data sets as others write them: what becomes a task, what does not and why, and where."""

import json

import pytest

from aevo_jax.tasks import own_data
from aevo_jax.tasks.convert import conversion, records
from aevo_jax.tasks.convert.conversion import Options

BOX = '\\boxed{7}'


def chat(*turns: str, names=('role', 'content'), roles=('user', 'assistant')):
  """Turns of the two roles, one after the other."""
  return [dict(zip(names, (roles[i % 2], turn), strict=True)) for i, turn in enumerate(turns)]


def sharegpt(*turns: str):
  return {'conversations': chat(*turns, names=('from', 'value'), roles=('human', 'gpt'))}


SYSTEM = [{'role': 'system', 'content': 'Be brief.'}]


def turn_into(tmp_path, *rows, name='data.jsonl', **options):
  lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
  (tmp_path / name).write_text('\n'.join(lines))
  return conversion.convert([tmp_path / name], Options(**options))


# A record, and prompt, answer and solution of the task that it becomes.
TASKS = [
  ({'messages': chat('Q?', f'3 and 4. {BOX}')}, 'Q?', '7', '3 and 4.'),
  ({'messages': chat('Q?', f'It is ${BOX}$.')}, 'Q?', '7', 'It is'),
  ({'messages': chat('Q?', '3 + 4\n#### 7')}, 'Q?', '7', '3 + 4'),
  ({'messages': chat('Q?', ' 7 ')}, 'Q?', '7', ''),
  ({'messages': chat('Q?', '(B)')}, 'Q?', '(B)', ''),
  (
    {'messages': chat('Q?', 'I think so.'), 'answer': 'yes'},
    'Q?',
    'yes',
    'I think so.',
  ),
  (
    {'messages': [{'role': 'user', 'content': [{'type': 'text', 'text': 'Q?'}]}], 'answer': 7},
    'Q?',
    '7',
    '',
  ),
  (sharegpt('Q?', f'<think>3, 4</think>{BOX}'), 'Q?', '7', '<think>3, 4</think>'),
  ({'instruction': 'Add.', 'input': '3, 4', 'output': '7'}, 'Add.\n3, 4', '7', ''),
  ({'instruction': 'Add.', 'input': '', 'output': f'so {BOX}'}, 'Add.', '7', 'so'),
  (
    {
      'data_source': 'openai/gsm8k',
      'prompt': chat('Q?'),
      'reward_model': {'style': 'rule', 'ground_truth': 7},
      'extra_info': {'answer': '3 + 4\n#### 7', 'index': 0},
    },
    'Q?',
    '7',
    '3 + 4',
  ),
  ({'prompt': 'Q?', 'completion': f'3, 4 {BOX}'}, 'Q?', '7', '3, 4'),
  (
    {'prompt': chat('Q?'), 'completion': [{'role': 'assistant', 'content': '7'}]},
    'Q?',
    '7',
    '',
  ),
  ({'prompt': 'Q?', 'ground_truth': ['7']}, 'Q?', '7', ''),
  ({'prompt': 'Q?', 'answer': '7', 'family': 'own', 'solution': '3, 4'}, 'Q?', '7', '3, 4'),
  ({'question': 'Q?', 'answer': 'He has 3. <<3+4=7>>\n#### 1,234'}, 'Q?', '1,234', None),
  ({'question': 'Q?', 'answer': 1234.0}, 'Q?', '1234', ''),
  ({'question': 'Q?', 'answer': 0.125}, 'Q?', '0.125', ''),
  ({'question': 'Q?', 'answer': '\N{MINUS SIGN}\N{FULLWIDTH DIGIT SEVEN}'}, 'Q?', '-7', ''),
  ({'question': 'Q?', 'answer': '$7$'}, 'Q?', '7', ''),
  ({'question': 'Q?', 'answer': r'\frac{1}{2}'}, 'Q?', r'\frac{1}{2}', ''),
  (
    {'problem': 'Q?', 'solution': r'\boxed{1} no, $\boxed{\frac{1}{2}}$', 'level': 5},
    'Q?',
    r'\frac{1}{2}',
    r'\boxed{1} no,',
  ),
]


@pytest.mark.parametrize(('record', 'prompt', 'answer', 'solution'), TASKS)
def test_a_record_becomes_a_task(tmp_path, record, prompt, answer, solution):
  converted = turn_into(tmp_path, record)
  assert converted.refused == {}
  (item,) = converted.items
  assert (item.question, item.answer) == (prompt, answer)
  if solution is not None:
    assert item.reasoning.strip() == solution


# A record, and why it is none.
REFUSED = [
  ({'messages': chat('Q?', 'A long reply.')}, 'no answer can be checked'),
  ({'messages': chat('Q?')}, 'there is no answer'),
  ({'messages': chat('Q?', '7', 'R?', '8')}, '2 turns of the user and 2 of the model'),
  ({'messages': []}, 'expected a list of turns'),
  ({'messages': [{'role': 'tool', 'content': '7'}]}, "a turn is of 'tool'"),
  ({'messages': [{'role': 'assistant', 'content': '7'}]}, 'before any question'),
  (
    {'messages': [{'role': 'user', 'content': [{'type': 'image_url'}]}]},
    'more than text',
  ),
  ({'messages': SYSTEM + chat('Q?', '7')}, 'say --system=prepend'),
  ({'conversations': sharegpt('Q?', '7')['conversations'], 'system': 'S'}, '--system=prepend'),
  ({'instruction': 'Q?', 'output': '7', 'history': [['a', 'b']]}, 'there is a history'),
  ({'prompt': chat('Q?'), 'reward_model': {'style': 'model'}}, 'has no ground_truth'),
  (
    {'prompt': chat('Q?'), 'reward_model': {'ground_truth': ['7', '8']}},
    'reward_model.ground_truth is list',
  ),
  ({'prompt': 'Q?', 'chosen': 'a', 'rejected': 'b'}, 'are a preference'),
  ({'question': 'Q?', 'answer': 'A text\nof two lines'}, 'which no verifier compares'),
  ({'question': 'Q?', 'answer': True}, 'answer is bool'),
  ({'question': 'Q?', 'answer': None}, 'there is no answer'),
  ({'question': ['a', 'b'], 'answer': '7'}, 'question is list'),
  (
    {'question': 'Q?', 'answer': '8', 'solution': BOX},
    'another answer than the field of the key',
  ),
  ({'text': 'a', 'meta': 'b'}, 'no known shape has the fields text, meta'),
  ('{"\\ud800": 1}', "no known shape has the fields '\\ud800'"),
  (['a'], 'expected an object, got list'),
  ({'question': ' ', 'answer': '7'}, 'prompt is empty'),
  ('{"question": "Q?", "answer": "\\ud800"}', 'half of a surrogate pair'),
  ('{"question": "Q?", "answer": "\\u0000"}', 'holds a NUL'),
  ('{"question": "Q?", "answer": 1, "answer": 2}', "the key 'answer' stands twice"),
  ('{"question": "Q?", "answer": NaN}', 'NaN is no JSON'),
  ('{"question": "Q?", "answer": 1e999}', 'answer is float'),
  ('{"question": "Q?", "answer": "7",}', 'not JSON'),
  ('{"question": "Q?", "answer": ' + '9' * 5000 + '}', 'not JSON (Exceeds the limit'),
  ('[' * 5000, 'not JSON'),
]


@pytest.mark.parametrize(('record', 'why'), REFUSED)
def test_what_is_no_task_is_named_with_its_line(tmp_path, record, why):
  good = {'question': 'Good?', 'answer': '1'}
  converted = turn_into(tmp_path, good, '', record, {'question': 'Too?', 'answer': '2'})
  assert [item.question for item in converted.items] == ['Good?', 'Too?']
  ((told, places),) = converted.refused.items()
  assert why in told and places == [f'{tmp_path / "data.jsonl"}:3']


def test_what_a_person_decides(tmp_path):
  system = {'messages': SYSTEM + chat('Q?', '7')}
  long = {'messages': chat('Q?', 'A long reply.')}
  assert turn_into(tmp_path, system, system='prepend').items[0].question == 'Be brief.\n\nQ?'
  assert turn_into(tmp_path, system, system='drop').items[0].question == 'Q?'
  assert turn_into(tmp_path, long, whole_replies=True).items[0].answer == 'A long reply.'
  verl = TASKS[10][0]
  assert turn_into(tmp_path, verl).items[0].family == 'openai_gsm8k'
  assert turn_into(tmp_path, verl, family='mine').items[0].family == 'mine'
  assert turn_into(tmp_path, long | {'answer': 'x'}, name='a b.jsonl').items[0].family == 'a_b'


@pytest.mark.parametrize(
  ('answers', 'verifier', 'refused'),
  [
    (['7', '-1,234.5'], 'number', 0),
    (['B', '(c)'], 'choice', 0),
    (['7', 'B'], 'strict', 0),
    (['7', '1/2'], 'strict', 0),
    (['7', '1/2', '0,125', '7 apples'], 'number', 3),
  ],
)
def test_the_verifier_that_fits_is_chosen_or_asked_for(tmp_path, answers, verifier, refused):
  rows = [{'question': f'Q{i}?', 'answer': answer} for i, answer in enumerate(answers)]
  converted = turn_into(tmp_path, *rows, verifier=verifier if refused else '')
  assert converted.verifier == verifier
  assert sum(map(len, converted.refused.values())) == refused


def test_repetitions_count_once_and_contradictions_name_the_first(tmp_path):
  rows = [{'question': q, 'answer': a} for q, a in (('Q?', 1), ('Q?', 1), (' Q? ', 2))]
  converted = turn_into(tmp_path, *rows)
  assert len(converted.items) == 1 and converted.repeated == 1
  ((why, places),) = converted.refused.items()
  assert 'the answer contradicts' in why and 'data.jsonl:1' in why
  assert places[0].endswith('data.jsonl:3')


QUESTIONS = [{'question': f'{i}?', 'answer': i} for i in range(3)]
LINES = '\n'.join(map(json.dumps, QUESTIONS))
INDENTED = json.dumps(QUESTIONS, indent=1)


# How a file is written, and the lines of its three records.
@pytest.mark.parametrize(
  ('content', 'lines'),
  [
    (LINES.encode(), [1, 2, 3]),
    (LINES.replace('\n', '\r\n').encode(), [1, 2, 3]),
    (b'\xef\xbb\xbf' + LINES.encode(), [1, 2, 3]),
    (LINES.replace('\n', '\n\ufeff').encode(), [1, 2, 3]),
    (LINES.encode('utf-16'), [1, 2, 3]),
    (b'\n\n' + INDENTED.encode(), [4, 8, 12]),
    (json.dumps(QUESTIONS).encode(), [1, 1, 1]),
    ('\n'.join(json.dumps(q, indent=1) for q in QUESTIONS).encode(), [1, 5, 9]),
  ],
)
def test_a_file_is_read_however_it_is_written(tmp_path, content, lines):
  path = tmp_path / 'q.json'
  path.write_bytes(content)
  found = list(records.read(path))
  assert [record.value for record in found] == QUESTIONS
  assert [int(record.location.rpartition(':')[2]) for record in found] == lines


@pytest.mark.parametrize(
  ('content', 'why', 'line'),
  [
    (INDENTED[:-1] + ',]', None, None),
    (INDENTED[:-1], 'no , or ]', 14),
    (INDENTED + '{}', 'text behind the array', 14),
    (INDENTED.replace('"answer": 2', '"question": 2'), "'question' stands twice", 10),
  ],
)
def test_an_array_that_breaks_off_says_where(tmp_path, content, why, line):
  path = tmp_path / 'q.json'
  path.write_text(content)
  broken = [record for record in records.read(path) if isinstance(record, records.Unreadable)]
  if why is None:
    assert not broken
    return
  assert why in broken[0].why and broken[0].location == f'{path}:{line}'


@pytest.mark.parametrize(
  ('content', 'said'),
  [
    (b'PAR1\x00', 'is Parquet, .*to_json'),
    (b'{"question": "\xe9"}', 'is not UTF-8'),
    (LINES.encode('utf-16-le'), 'holds NUL bytes, as UTF-16 does'),
    (None, 'there is no'),
  ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, content, said):
  path = tmp_path / 'q.jsonl'
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(records.RecordsError, match=said):
    for file in records.files(path):
      list(records.read(file))


def test_a_folder_is_its_json_files_by_name(tmp_path):
  for name in ('b.json', 'a.jsonl', 'c.txt'):
    (tmp_path / name).write_text(LINES)
  assert [file.name for file in records.files(tmp_path)] == ['a.jsonl', 'b.json']
  (tmp_path / 'empty').mkdir()
  with pytest.raises(records.RecordsError, match='holds no'):
    records.files(tmp_path / 'empty')


def test_what_is_written_reads_back_as_tasks(tmp_path):
  rows = [record for record, *_ in TASKS]
  rows = [json.loads(json.dumps(row).replace('Q?', f'Q{i}?')) for i, row in enumerate(rows)]
  converted = turn_into(tmp_path, *rows, family='mine')
  out = tmp_path / 'tasks.jsonl'
  conversion.write(converted, out)
  assert own_data.read(out).items == converted.items
  assert not list(tmp_path.glob('.*'))
