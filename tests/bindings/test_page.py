"""docs/bindings.md lists every binding of every command.

Rewrite the list with: python tests/bindings/test_page.py
"""

import dataclasses
import pathlib

import every_binding

from aevo_jax.bindings import readers
from aevo_jax.bindings import registered as _registered  # noqa: F401  everything that can be bound
from aevo_jax.config import configurables

PAGE = pathlib.Path(__file__).resolve().parents[2] / 'docs' / 'bindings.md'
BEGIN = '<!-- bindings: begin (python tests/bindings/test_page.py) -->\n'
END = '<!-- bindings: end -->'
LONGEST = 48  # of a default that is written out


def written(value: object) -> str:
  """A default, as a table shows it."""
  if value is dataclasses.MISSING:
    return 'required'
  text = repr(value)
  return f'`{text}`' if len(text) <= LONGEST else 'see the class'


def conditions(name: str, parameter: str) -> str:
  """When a parameter is read in every command that reads it."""
  found = [f'`{c.when}`' for c in configurables.conditions(name, parameter)]
  return '; '.join(found).replace('|', '\\|')


def of_command(command: str, name: str, parameter: str) -> str:
  """A command, with what holds for it alone."""
  conditions = readers.row(command, name, parameter) or ()
  flag = readers.OVERRIDES.get(command, {}).get(f'{name}.{parameter}')
  words = [str(when) for when in conditions]
  if flag:
    words.append(f'without {flag}')
  return f'{command} ({"; ".join(words)})' if words else command


def list_of_bindings() -> str:
  """The tables, one for each section."""
  lines = []
  for name, fields in sorted(configurables.parameters().items()):
    if not every_binding.is_ours(name):
      continue
    lines += ['', f'## {name}', '', '| binding | default | read by | while |', '|---|---|---|---|']
    for parameter in fields:
      commands = [of_command(c, name, parameter) for c in readers.readers(name, parameter)]
      default = written(configurables.default(name, parameter))
      by = ', '.join(commands) or 'nothing; a campaign fills it in'
      lines.append(f'| `{name}.{parameter}` | {default} | {by} | {conditions(name, parameter)} |')
  return '\n'.join(lines[1:]) + '\n'


def test_the_list_is_complete_and_current():
  assert PAGE.read_text().split(BEGIN)[1].split(END)[0] == list_of_bindings(), (
    'rewrite it with: python tests/bindings/test_page.py'
  )


if __name__ == '__main__':
  text = PAGE.read_text()
  head, rest = text.split(BEGIN)
  PAGE.write_text(head + BEGIN + list_of_bindings() + END + rest.split(END)[1])
