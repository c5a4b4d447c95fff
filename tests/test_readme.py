"""README.md is short, and docs/map.md names every file with the first sentence of its docstring.

Rewrite the map with: python tests/test_readme.py
"""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAP = ROOT / 'docs' / 'map.md'
BEGIN = '<!-- map: begin (python tests/test_readme.py) -->\n'
END = '<!-- map: end -->'
README_WORDS = 1500


def sentence(path: pathlib.Path) -> str:
  """The first sentence of a module's docstring."""
  docstring = ast.get_docstring(ast.parse(path.read_text()))
  assert docstring, f'{path} has no docstring'
  return ' '.join(docstring.split('\n\n')[0].split()).split('. ')[0].rstrip('.')


def file_map() -> str:
  """Every folder with its purpose, every file with one line."""
  folders = [
    ROOT / 'aevo_jax',
    *sorted(
      p.parent for p in (ROOT / 'aevo_jax').rglob('__init__.py') if p.parent.name != 'aevo_jax'
    ),
    ROOT / 'launch',
    ROOT / 'benchmarks',
    ROOT / 'tools',
  ]
  lines = ['```']
  for folder in folders:
    purpose = f'   {sentence(folder / "__init__.py")}' if (folder / '__init__.py').exists() else ''
    lines.append(f'{folder.relative_to(ROOT)}/{purpose}')
    lines += [
      f'  {path.name:<27}{sentence(path)}'
      for path in sorted(folder.glob('*.py'))
      if path.name != '__init__.py'
    ]
  return '\n'.join([*lines, '```']) + '\n'


def test_the_map_is_complete_and_current():
  page = MAP.read_text()
  assert page.split(BEGIN)[1].split(END)[0] == file_map(), (
    'rewrite it with: python tests/test_readme.py'
  )


def test_the_readme_can_be_read_in_a_sitting():
  assert len((ROOT / 'README.md').read_text().split()) <= README_WORDS


PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]


@pytest.mark.parametrize('page', PAGES, ids=lambda path: path.name)
def test_files_that_a_page_names_exist(page):
  """A path in backticks is one below the checkout, or below aevo_jax/."""
  for path in re.findall(r'`([\w./]+/[\w./]+\.(?:py|gin|json|md))`', page.read_text()):
    if 'NAME' not in path and not path.startswith(
      ('runs/', 'policy/', 'evidence/', 'trials/', 'benchmarks/results/')
    ):
      assert (ROOT / path).exists() or (ROOT / 'aevo_jax' / path).exists(), path


if __name__ == '__main__':
  text = MAP.read_text()
  head, rest = text.split(BEGIN)
  MAP.write_text(head + BEGIN + file_map() + END + rest.split(END)[1])
