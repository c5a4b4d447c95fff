"""Files have at most 500 lines, functions 60 without their docstring, folders 12 modules."""

import ast
import pathlib
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ('aevo_jax', 'launch', 'tests', 'benchmarks', 'tools', 'third_party')
FILE_LINES = 500
FUNCTION_LINES = 60
FOLDER_MODULES = 12


def files() -> Iterator[pathlib.Path]:
  """Yields the project's Python files, without environments."""
  for folder in FOLDERS:
    for path in sorted((ROOT / folder).rglob('*.py')):
      if '.venv' not in path.parts:
        yield path


def test_no_file_is_too_long():
  too_long = {}
  for path in files():
    lines = len(path.read_text(encoding='utf-8').splitlines())
    if lines > FILE_LINES:
      too_long[str(path.relative_to(ROOT))] = lines
  assert not too_long


def test_no_function_is_too_long():
  too_long = {}
  for path in files():
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        lines = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node) is not None:
          lines -= node.body[0].end_lineno - node.body[0].lineno + 1
        if lines > FUNCTION_LINES:
          too_long[f'{path.relative_to(ROOT)}:{node.lineno} {node.name}'] = lines
  assert not too_long


def test_no_folder_of_the_package_has_too_many_modules():
  too_many = {}
  for init in sorted((ROOT / 'aevo_jax').rglob('__init__.py')):
    modules = len(list(init.parent.glob('*.py'))) - 1
    if modules > FOLDER_MODULES:
      too_many[str(init.parent.relative_to(ROOT))] = modules
  assert not too_many
