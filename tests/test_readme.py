"""The README's map names every file with the first sentence of its docstring. Rewrite it with:
python tests/test_readme.py
"""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = '<!-- map: begin (python tests/test_readme.py) -->\n', '<!-- map: end -->'


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
  readme = (ROOT / 'README.md').read_text()
  assert readme.split(BEGIN)[1].split(END)[0] == file_map(), (
    'rewrite it with: python tests/test_readme.py'
  )


if __name__ == '__main__':
  text = (ROOT / 'README.md').read_text()
  head, rest = text.split(BEGIN)
  (ROOT / 'README.md').write_text(head + BEGIN + file_map() + END + rest.split(END)[1])
