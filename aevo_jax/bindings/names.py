"""Names that gin may bind, read from the source, so that a wrong one is answered before JAX starts.

`registered` imports the modules themselves, which takes seconds. `tests/bindings/test_names.py`
compares the two.
"""

import ast
import functools
import importlib
import pathlib
from collections.abc import Mapping

from aevo_jax.config.configurables import parameters

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
_DECORATOR = 'configurable'


@functools.cache
def written() -> Mapping[str, tuple[str, ...]]:
  """Returns the name of every configurable -> names of its parameters."""
  found: dict[str, tuple[str, ...]] = {}
  for path in sorted(_PACKAGE.rglob('*.py')):
    text = path.read_text(encoding='utf-8')
    if f'\n@{_DECORATOR}(' in text:
      found |= _of_module(path, ast.parse(text))
  return found


def _of_module(path: pathlib.Path, tree: ast.Module) -> dict[str, tuple[str, ...]]:
  """Returns the configurables of one module."""
  classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
  found = {}
  for node in classes.values():
    name = _bound_name(node)
    if name is None:
      continue
    if _is_written_out(node):
      found[name] = tuple(_fields(node, classes))
    else:
      # Another decorator makes its fields. Such modules import no JAX.
      relative = path.relative_to(_PACKAGE.parent).with_suffix('')
      importlib.import_module('.'.join(relative.parts))
      found[name] = parameters()[name]
  return found


def _bound_name(node: ast.ClassDef) -> str | None:
  """Returns the name by which gin knows a class; None where it knows none."""
  for decorator in node.decorator_list:
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == _DECORATOR:
      return ast.literal_eval(decorator.args[0])
  return None


def _is_written_out(node: ast.ClassDef) -> bool:
  """Whether a class is a plain dataclass, whose fields stand in its body."""
  return any(ast.unparse(one).startswith('dataclasses.dataclass') for one in node.decorator_list)


def _fields(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> list[str]:
  """Lists the fields of a dataclass, those of its bases in the same module first."""
  fields: dict[str, None] = {}
  for base in node.bases:
    fields |= dict.fromkeys(_fields(classes[ast.unparse(base)], classes))
  for statement in node.body:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
      fields[statement.target.id] = None
  return list(fields)
