"""aevo tasks convert as a person types it, and aevo train with what it wrote."""

import bz2
import gzip
import io
import json
import lzma
import zipfile

import pytest
from aevo_command import REPOSITORY, aevo

from aevo_jax.tasks import splits


@pytest.fixture
def gsm8k(tmp_path):
  """Twenty questions, each with steps and `#### key`."""
  path = tmp_path / 'gsm8k.jsonl'
  lines = []
  for i in range(20):
    answer = f'{i} and 1 make {i + 1}.\n#### {i + 1}'
    lines.append(json.dumps({'question': f'{i} + 1?', 'answer': answer}))
  path.write_text('\n'.join(lines) + '\n')
  return path


def test_what_is_written_is_counted_and_never_over_a_file(gsm8k, tmp_path):
  out = tmp_path / 'tasks.jsonl'
  result = aevo('tasks', 'convert', gsm8k, f'--out={out}')
  assert result.returncode == 0, result.stderr
  assert f'read {gsm8k}\n20 of the shape' in result.stdout
  assert f'wrote 20 tasks to {out}, 20 with a solution; families: gsm8k' in result.stdout
  assert "suits the verifier 'number'" in result.stdout
  written = out.read_bytes()
  again = aevo('tasks', 'convert', gsm8k, f'--out={out}')
  assert again.returncode == 1 and 'exists; name another --out, or say --overwrite' in again.stderr
  assert aevo('tasks', 'convert', gsm8k, f'--out={out}', '--overwrite').returncode == 0
  assert out.read_bytes() == written


def test_the_command_of_the_page(tmp_path, monkeypatch):
  page = (REPOSITORY / 'docs' / 'own_model_and_data.md').read_text()
  command = page.partition('$ aevo tasks ')[2].partition('\n')[0].split()
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'docs').symlink_to(REPOSITORY / 'docs')
  result = aevo('tasks', *command)
  assert result.returncode == 0, result.stderr
  assert 'wrote 24 tasks to chat_tasks.jsonl, 24 with a solution' in result.stdout
  # Several files are one data set.
  both = aevo('tasks', 'convert', 'docs/chats.jsonl', 'chat_tasks.jsonl', '--out=x', '--family=a')
  assert 'read docs/chats.jsonl, chat_tasks.jsonl\n' in both.stdout
  assert '24 repeat another record' in both.stdout


def test_a_wrong_record_stops_all_unless_it_is_skipped(gsm8k, tmp_path):
  out = tmp_path / 'tasks.jsonl'
  gsm8k.write_text(gsm8k.read_text() + '{"text": "7"}\n' * 7)
  result = aevo('tasks', 'convert', gsm8k, f'--out={out}')
  assert result.returncode == 1 and not out.exists()
  assert '7 not turned: no known shape has the fields text\n' in result.stdout
  assert (
    f'{gsm8k}:25 and 2 more' in result.stdout and '--skip to write the other 20' in result.stderr
  )
  assert aevo('tasks', 'convert', gsm8k, f'--out={out}', '--skip').returncode == 0
  assert len(out.read_text().splitlines()) == 20


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (['convert', 'nowhere.jsonl', '--out=x'], 'nowhere.jsonl: there is no such file or directory'),
    (['convert', '{gsm8k}', 'no.jsonl', '--out=x'], 'no.jsonl: there is no such file or directory'),
    (['convert', '{gsm8k}', '--out='], 'is a directory; name the file to write with --out'),
    ([], 'convert and FILE... and --out are missing; write: aevo tasks convert FILE... --out=OUT'),
    (['convert', '--out=x'], 'FILE... is missing; write: aevo tasks convert FILE...'),
    (['convert', '{gsm8k}'], '--out is missing; write: aevo tasks convert FILE... --out=OUT'),
    (['turn', '{gsm8k}', '--out=x'], "no action 'turn'; write: aevo tasks convert FILE..."),
    (['convert', '{gsm8k}', '--out=.', '--overwrite'], 'is a directory; name the file to write'),
    (['convert', '{gsm8k}', '--out=nowhere/x'], 'there is no such file or directory'),
    (['convert', '{gsm8k}', '--out=x', '--family=overall'], "family 'overall' has another meaning"),
    (['convert', '{gsm8k}', '--out=x', '--verifier=choice'], 'no record could be turned'),
  ],
)
def test_what_cannot_be_served_is_a_sentence(gsm8k, tmp_path, monkeypatch, arguments, said):
  monkeypatch.chdir(tmp_path)
  result = aevo('tasks', *[argument.format(gsm8k=gsm8k) for argument in arguments])
  assert result.returncode == 1 and said in result.stdout + result.stderr
  assert 'Traceback' not in result.stderr
  assert [path.name for path in tmp_path.iterdir()] == ['gsm8k.jsonl']


BOX = '\\boxed{A}'
LIST = ['one', 'two', 'three', 'four']
LISTED = 'Q?\n\nA. one\nB. two\nC. three\nD. four'
LABELLED = {'label': ['1', '2', '3', '4'], 'text': LIST}
PAIRS = [{'label': label, 'text': text} for label, text in zip('ABCD', LIST, strict=True)]


# A record, and prompt, answer and solution of the task that is written.
@pytest.mark.parametrize(
  ('record', 'prompt', 'answer', 'solution'),
  [
    ({'question': 'Q?', 'subject': 's', 'choices': LIST, 'answer': 2}, LISTED, 'C', None),
    ({'question': 'Q?', 'choices': LIST, 'answer': 0}, LISTED, 'A', None),
    ({'question': 'Q?', 'choices': LIST, 'answer': 'b'}, LISTED, 'B', None),
    ({'question': 'Q?', 'choices': LIST, 'answer': '(B)'}, LISTED, 'B', None),
    ({'question': 'Q?', 'choices': LIST, 'answer': 'two'}, LISTED, 'B', None),
    ({'question': 'Q?', 'choices': LABELLED, 'answerKey': '4'}, LISTED, 'D', None),
    ({'question': 'Q?', 'choices': PAIRS, 'answerKey': 'D'}, LISTED, 'D', None),
    (
      {'question': 'Q?', 'options': dict(zip('ABCD', LIST, strict=True)), 'answer': 'four'},
      LISTED,
      'D',
      None,
    ),
    ({'prompt': 'Q?', 'choices': LIST, 'answer': 3, 'solution': 'So #### (D)'}, LISTED, 'D', 'So'),
    (
      {'question': 'Q?', 'choices': ['4', '2', '1'], 'answer': 1},
      'Q?\n\nA. 4\nB. 2\nC. 1',
      'B',
      None,
    ),
    ({'question': 'Q?', 'choices': ['4', '7'], 'answer': 7}, 'Q?\n\nA. 4\nB. 7', 'B', None),
    ({'question': 'Q?', 'answer': 'It is 3. #### 3'}, 'Q?', '3', 'It is 3.'),
    ({'question': 'Q?', 'answer': 'A #### 1 B #### C#'}, 'Q?', 'C#', 'A #### 1 B'),
    ({'question': 'Q?', 'answer': 'It is\n####3\nIndeed.'}, 'Q?', '3', 'It is'),
    (
      {'question': 'Q?', 'answer': '3', 'solution': '#### Add\n1 + 2'},
      'Q?',
      '3',
      '#### Add\n1 + 2',
    ),
  ],
)
def test_a_record_is_written_as_a_task(gsm8k, tmp_path, record, prompt, answer, solution):
  gsm8k.write_text(gsm8k.read_text() + json.dumps(record) + '\n')
  out = tmp_path / 'tasks.jsonl'
  result = aevo('tasks', 'convert', gsm8k, f'--out={out}', '--family=mine')
  assert result.returncode == 0, result.stdout + result.stderr
  task = json.loads(out.read_text().splitlines()[-1])
  assert (task['prompt'], task['answer'], task.get('solution')) == (prompt, answer, solution)


@pytest.mark.parametrize(
  ('record', 'why'),
  [
    ({'question': 'Q?', 'choices': LIST, 'answer': 4}, 'the answer names 0 of the choices'),
    ({'question': 'Q?', 'choices': LIST, 'answer': -1}, 'the answer names 0 of the choices'),
    ({'question': 'Q?', 'choices': LIST, 'answer': 'five'}, 'the answer names 0 of the choices'),
    ({'question': 'Q?', 'choices': LIST, 'response': 'B'}, 'the answer names 0 of the choices'),
    ({'question': 'Q?', 'choices': [3, 2, 1], 'answer': 2}, 'the answer names 2 of the choices'),
    ({'question': 'Q?', 'choices': ['B', 'A'], 'answer': 'B'}, 'the answer names 2 of the'),
    ({'question': 'Q?', 'choices': ['one'], 'answer': 0}, 'there are 1 choices'),
    ({'question': 'Q?', 'choices': [{'message': 'a'}, {}], 'answer': 0}, 'a choice is dict'),
    (
      {'question': 'Q?', 'choices': LIST, 'answer': 2, 'solution': BOX},
      'the reply ends with another',
    ),
    ({'question': 'Q?', 'passage': 'P.', 'answer': 'yes'}, "a field 'passage' stands beside"),
    ({'messages': [], 'images': ['a.png']}, "a field 'images' stands beside the question"),
    ({'question': 'Q?', 'answer': 'It is 3. ####'}, 'no answer stands behind the last ####'),
    ({'question': 'Q?', 'answer': '#### Answer\nAdd them.'}, 'no answer stands behind the last'),
    ({'question': 'Q?', 'solution': '#### Answer\nAdd.'}, 'no answer can be checked'),
  ],
)
def test_a_record_that_says_more_is_not_turned(gsm8k, tmp_path, record, why):
  gsm8k.write_text(gsm8k.read_text() + json.dumps(record) + '\n')
  result = aevo('tasks', 'convert', gsm8k, f'--out={tmp_path / "tasks.jsonl"}')
  assert result.returncode == 1 and f'1 not turned: {why}' in result.stdout, result.stdout
  assert f'{gsm8k}:21' in result.stdout


def packed(names: dict[str, str]) -> bytes:
  """A zip archive."""
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w') as archive:
    for name, text in names.items():
      archive.writestr(name, text)
  return content.getvalue()


@pytest.mark.parametrize(
  ('name', 'content', 'said'),
  [
    ('t.csv', b'question,answer\n1 + 1?,2\n', 'is CSV, where JSON or JSON lines is expected'),
    ('t.TSV', b'question\tanswer\n1 + 1?\t2\n', "pandas.read_csv(FILE, sep='\\t').to_json("),
    ('t.parquet', b'PAR1\0', 'pandas.read_parquet(FILE).to_json('),
    ('t.arrow', b'ARROW1\0', 'pandas.read_feather(FILE).to_json('),
    (
      'm.jsonl.gz',
      gzip.compress(b'{}', mtime=0),
      'is packed by gzip; unpack it first: gunzip m.jsonl.gz',
    ),
    ('m.jsonl', bz2.compress(b'{}'), 'is packed by bzip2; unpack it first: bunzip2 m.jsonl'),
    ('m.jsonl.xz', lzma.compress(b'{}'), 'is packed by xz'),
    ('m.jsonl.zst', b'\x28\xb5\x2f\xfd\0', 'is packed by zstd'),
    ('m.zip', packed({'m.jsonl': '{}'}), 'is packed by zip; unpack it first: unzip m.zip'),
    ('m.xlsx', packed({'a.xml': '', 'xl/workbook.xml': ''}), 'pandas.read_excel(FILE).to_json('),
  ],
)
def test_a_file_of_another_kind_is_named_with_what_to_do(
  tmp_path, monkeypatch, name, content, said
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / name).write_bytes(content)
  result = aevo('tasks', 'convert', name, '--out=x')
  assert result.returncode == 1 and said in result.stderr, result.stderr
  assert result.stderr.startswith(f'tasks: {name} is ') and result.stderr.count('\n') == 1
  assert not (tmp_path / 'x').exists()


def private(family: str) -> dict[str, str]:
  """A question that is in no train split."""
  prompts = (f'{family} {i}?' for i in range(100))
  keys = {prompt: f'own|{prompt.casefold()}' for prompt in prompts}
  question = next(prompt for prompt, key in keys.items() if splits.split_of(key) == 'private')
  return {'question': question, 'answer': '7', 'family': family}


def test_rare_families_cost_themselves_alone_and_all_are_named(gsm8k, tmp_path):
  out = tmp_path / 'tasks.jsonl'
  rare = [json.dumps(private(family)) for family in ('rare', 'few')]
  gsm8k.write_text(gsm8k.read_text() + '\n'.join(rare))
  result = aevo('tasks', 'convert', gsm8k, f'--out={out}')
  assert result.returncode == 1 and not out.exists()
  assert "2 not turned: no prompt of families 'few', 'rare' falls into the train" in result.stdout
  assert 'say --family=NAME' in result.stdout and f'{gsm8k}:21, {gsm8k}:22' in result.stdout
  assert 'say --skip to write the other 20' in result.stderr
  for option, written in (('--skip', 20), ('--family=mine', 22)):
    done = aevo('tasks', 'convert', gsm8k, f'--out={out}', '--overwrite', option)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(out.read_text().splitlines()) == written
  # A data set that is one such record has nothing to train on.
  gsm8k.write_text(rare[0])
  alone = aevo('tasks', 'convert', gsm8k, f'--out={tmp_path / "x"}')
  assert alone.returncode == 1 and 'x.new' not in alone.stderr
  assert "nothing was written: no line of family 'rare' falls into the train" in alone.stderr


def test_training_names_the_command_and_takes_what_it_writes(gsm8k, tmp_path):
  out = tmp_path / 'tasks.jsonl'
  # Of one token no run is made. That is said once the tasks are read and found to fit.
  train = ['train', '--tokens=1', '--steps=1', f'--out={tmp_path / "run"}']
  refused = aevo(*train, f'--tasks={gsm8k}')
  assert refused.returncode == 1
  command = f'aevo tasks convert {gsm8k} --out=tasks.jsonl'
  assert refused.stderr.strip().endswith(command)
  assert aevo(*command.replace('tasks.jsonl', str(out)).split()[1:]).returncode == 0
  trained = aevo(*train, f'--tasks={out}')
  assert 'exceeds the budget of 1 tokens' in trained.stderr
