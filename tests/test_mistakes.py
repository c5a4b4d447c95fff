"""docs/mistakes.md: each row is run as it is written, and the first table needs no JAX."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest
from aevo_command import aevo, environment

from aevo_jax import layout

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'mistakes.md'
AT_ONCE = 'Answered at once'


class Row(NamedTuple):
  """One row of the page."""

  arguments: tuple[str, ...]
  answer: str
  status: int
  at_once: bool

  def is_answer(self, text: str) -> bool:
    """Whether the text holds the answer, in which `...` stands for any text."""
    parts = [re.escape(part) for part in self.answer.split('...')]
    return re.search('.*'.join(parts), text, re.DOTALL) is not None


def rows() -> list[Row]:
  found = []
  heading = ''
  for line in PAGE.read_text().splitlines():
    if line.startswith('## '):
      heading = line.removeprefix('## ')
    if not line.startswith('| `aevo'):
      continue
    cells = re.split(r'(?<!\\)\|', line)[1:-1]
    command, answer, status, _ = [cell.strip().replace('\\|', '|') for cell in cells]
    arguments = tuple(shlex.split(command.strip('`')))[1:]
    found.append(Row(arguments, answer.replace('``', '`'), int(status), heading == AT_ONCE))
  return found


@pytest.fixture(scope='module')
def directory(tmp_path_factory) -> pathlib.Path:
  """What the page says is there."""
  made = tmp_path_factory.mktemp('mistakes')
  (made / 'notes').mkdir()
  (made / 'notes' / 'thesis.tex').write_text('years of work')
  (made / 'a_file').write_text('work')
  shutil.copytree(layout.root_file('substrate') / 'base', made / 'my_base')
  lines = [{'prompt': '1 + 1?', 'answer': '2', 'family': 'sums'}, {'prompt': '1 + 2?'}]
  (made / 'my_tasks.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  (made / 'typo.gin').write_text('optimizer.schedule = cosine\n')
  (made / 'scores.csv').write_text('dev_sums,score\n0.1,0.2\n0.3\n')
  (made / 'header.csv').write_text('dev_sums,score\n')
  (made / 'nested.gin').write_text("include 'parts/typo.gin'\n")
  return made


@pytest.mark.parametrize('row', rows(), ids=lambda row: ' '.join(row.arguments))
def test_a_row_is_true(directory, monkeypatch, row):
  monkeypatch.chdir(directory)
  before = sorted(os.listdir(directory))
  result = aevo(*row.arguments)
  assert result.returncode == row.status and row.is_answer(result.stderr), result.stderr
  assert 'Traceback' not in result.stderr and not result.stdout
  first, *rest = result.stderr.splitlines()
  assert row.is_answer(first), 'the sentence comes first'
  assert len(rest) <= 1 or row.status == 2
  assert sorted(os.listdir(directory)) == before


def test_the_page_has_both_kinds():
  """The rows of the reader above are all that the page has."""
  counts = [row.at_once for row in rows()]
  assert counts.count(True) >= 30 and counts.count(False) >= 15
  assert len(counts) == PAGE.read_text().count('\n| `aevo')


def test_the_first_table_needs_no_jax(directory):
  """One process answers all of it, and has not imported JAX at the end."""
  commands = [row.arguments for row in rows() if row.at_once]
  program = (
    'import json, sys\n'
    'from aevo_jax import cli\n'
    'for arguments in json.loads(sys.argv[1]):\n'
    '  status = cli.main(arguments)\n'
    '  assert status, arguments\n'
    "  assert 'jax' not in sys.modules, arguments\n"
    "print('all', sorted({'jax', 'flax', 'orbax'} & set(sys.modules)))\n"
  )
  done = subprocess.run(
    [sys.executable, '-c', program, json.dumps(commands)],
    cwd=directory,
    env=environment(),
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.stdout == 'all []\n', done.stderr


def test_an_answer_that_is_not_there_is_seen():
  row = Row(('train',), 'one ... three', 1, True)
  assert row.is_answer('one two three') and not row.is_answer('one two')
