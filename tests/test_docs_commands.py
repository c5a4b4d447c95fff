"""The runner of the pages' commands: what it reads, and which ends it calls failures."""

import importlib.util
import itertools
import pathlib
import shlex

import pytest

from aevo_jax import cli, paths
from aevo_jax.config import flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
_SPEC = importlib.util.spec_from_file_location('docs_commands', ROOT / 'tools' / 'docs_commands.py')
docs_commands = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(docs_commands)

PAGE = """
# A page

```
aevo not a command of the page
```

```console
$ echo one; echo two \\
  three
...
two three
$ false  # exit status 1
```

```console needs="a cluster"
$ sbatch job
```
"""


def test_a_page_is_read_as_it_is_written():
  first, second, third = docs_commands.read_page(PAGE, 'page.md')
  assert (first.text, first.output) == ('echo one; echo two \\\n  three', '...\ntwo three')
  assert (second.status, second.output) == (1, '')
  assert (third.needs, third.line) == ('a cluster', 17)


@pytest.mark.parametrize(
  ('command', 'problem'),
  [
    ('echo a; echo b', ''),
    ('echo b; echo a', 'does not end as the page shows'),
    ('echo a; echo b; exit 3', 'exit status 3, the page says 0'),
  ],
)
def test_status_and_last_lines_are_checked(tmp_path, command, problem):
  (read,) = docs_commands.read_page(f'```console\n$ {command}\nb\n```', 'page.md')
  assert problem in docs_commands.run(read, tmp_path, {}) and bool(problem) == bool(
    docs_commands.run(read, tmp_path, {})
  )


def test_output_before_a_command_is_a_mistake_of_the_page():
  with pytest.raises(ValueError, match=r'page.md:2: expected a command behind'):
    docs_commands.read_page('```console\nresult\n```', 'page.md')


@pytest.mark.parametrize(
  'page', ['README.md', *(f'docs/{p.name}' for p in (ROOT / 'docs').glob('*.md'))]
)
def test_every_command_of_a_page_stands_where_it_is_run(page):
  """A fenced block of another kind shows no command of ours."""
  text = (ROOT / page).read_text()
  docs_commands.read_page(text, page)
  fenced = text.split('```')[1::2]
  for block in fenced:
    if block.startswith('console'):
      continue
    shown = [
      line for line in block.splitlines()[1:] if line.startswith(('aevo ', 'make ', '.venv/'))
    ]
    assert not shown, f'{page}: {shown[0]!r} stands in a block that nothing runs'


def shown_commands() -> list[list[str]]:
  """Every call of aevo that a page shows, as words."""
  found = []
  for page in (ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))):
    for shown in docs_commands.read_page(page.read_text(), page.name):
      words = shlex.shlex(shown.text.replace('\\\n', ' '), posix=True, punctuation_chars=True)
      words.whitespace_split = True
      for is_end, part in itertools.groupby(words, lambda word: word[0] in ';&|<>()'):
        call = list(part)
        if not is_end and 'aevo' in call:
          found.append(call[call.index('aevo') + 1 :])
  return found


def test_the_shell_takes_every_command_of_a_page(monkeypatch, capsys):
  """No flag is unknown and no argument is one too many; which files are there is not asked."""
  for name in ('missing', 'not_new', 'not_fillable'):
    monkeypatch.setattr(paths, name, lambda path: None)
  monkeypatch.setattr(flags, 'check_readable_flags', lambda *_: None)
  launch = cli.commands()
  shown = shown_commands()
  assert ['tasks', 'convert', 'docs/chats.jsonl', '--out=chat_tasks.jsonl'] in shown
  assert len(shown) >= 60
  for name, *arguments in shown:
    if name != '--help':
      done = cli.load(launch[name]).COMMAND(lambda _: 0)(arguments)
      assert done == 0, f'aevo {name} {arguments}: {capsys.readouterr().err}'


def test_a_make_of_a_page_is_no_child_of_the_make_that_runs_the_page(monkeypatch, tmp_path):
  """A child says at its end which directory it leaves, and pages do not show that."""
  for name in ('MAKEFLAGS', 'MFLAGS', 'MAKELEVEL'):
    monkeypatch.setenv(name, '1')
  assert not {'MAKEFLAGS', 'MFLAGS', 'MAKELEVEL'} & docs_commands.environment(tmp_path).keys()
  assert docs_commands.environment(tmp_path)['AEVO_CAPS']
