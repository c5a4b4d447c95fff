"""Loads the gin that people write, and answers their mistakes with a place and a fix.

People's gin may include files, define UPPERCASE macros and override one file with the next. `load`
does everything in one place: it clears gin, reads files (with their includes) and then the bindings
of the command line, checks the whole, binds and finalizes. On any error gin is left empty and
unlocked, never half-loaded.

Narrower than gin, on purpose: no imports (`import os` would run a module, and a gin file holds
literals), no dynamic registration, no scopes (`a/b.c = 1` would shadow `b.c`), no references
(`@f()` would make what ran unrecordable as literals), no parameter bound twice in one file or on
one command line. Wider than gin: a macro that is defined but never used is an error, since
`LRR = 9` would otherwise be accepted in silence.
"""

import dataclasses
import io
import os
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gin
from gin import config_parser
from gin.config import ParserDelegate

from aevo_jax.config.configurables import (
  Bound,
  LoadError,
  configurable,
  gin_selector,
  name_problem,
  parameters,
  register_with_gin,
  resolve,
  resolved_bindings,
)
from aevo_jax.config.nearest import nearest_file, suggestion

__all__ = ['LoadError', 'configurable', 'load', 'parse_binding', 'resolve', 'resolved_bindings']

_REQUIRED = frozenset({'gin.REQUIRED', 'REQUIRED'})
_BARE_WORD = re.compile(r'=\s*-?[A-Za-z_./~][\w./~-]*\s*$')


@dataclasses.dataclass(frozen=True)
class _MacroUse:
  name: str


@dataclasses.dataclass(frozen=True)
class _Reference:
  name: str


class _Placeholders(config_parser.ParserDelegate):
  """Keeps macros and references as data until every file is read and checked."""

  def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Any:
    return _Reference(scoped_configurable_name)

  def macro(self, macro_name: str) -> Any:
    return _MacroUse(macro_name)


@dataclasses.dataclass(frozen=True)
class _Statement:
  """One binding as written; `name` is '' and `parameter` the macro's name for a macro."""

  name: str
  parameter: str
  scope: str
  value: Any
  source: str
  line: int
  from_command_line: bool
  given: str = ''

  @property
  def key(self) -> str:
    return f'{self.name}.{self.parameter}' if self.name else self.parameter

  @property
  def where(self) -> str:
    return self.source if self.from_command_line else f'{self.source}:{self.line}'


def load(
  gin_files: Sequence[str], gin_bindings: Sequence[str], *, search_paths: Sequence[str]
) -> tuple[Bound, ...]:
  """Clears gin, loads the files in order and then the bindings, checks them, and locks the result.

  Args:
    gin_files: paths, looked up in the working directory and then in `search_paths`. An include is
      looked up beside the file that includes it, then as these.
    gin_bindings: statements such as 'optimizer.learning_rate = 1e-3'; they override the files.
    search_paths: directories.

  Returns:
    What is bound in the end, in the order in which it was first bound.

  Raises:
    LoadError: for every mistake below, all of them in one message where they can be seen at once. A
      missing file, wrong syntax, an import, an unknown configurable or parameter, a macro
      undefined, unused or circular, %gin.REQUIRED left without a value, a scope, a reference.
  """
  gin.clear_config()
  loaded = False
  try:
    statements = _read(gin_files, gin_bindings, search_paths)
    problems = _problems(statements)
    if problems:
      raise LoadError('\n'.join(problems))
    register_with_gin()
    delegate = ParserDelegate()
    for statement in statements:
      if statement.name:
        key = f'{gin_selector(statement.name)}.{statement.parameter}'
      else:
        key = f'{statement.parameter}/gin.macro.value'
      gin.bind_parameter(key, _with_gin_macros(statement.value, delegate))
    gin.finalize()
    loaded = True
    return _bound(statements)
  finally:
    if not loaded:
      gin.clear_config()


def check_readable(
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  *,
  search_paths: Sequence[str],
  known: Mapping[str, Sequence[str]],
) -> None:
  """Checks what needs no configurable to be registered: files, their syntax, and names.

  Args:
    gin_files: as `load` takes them.
    gin_bindings: as `load` takes them.
    search_paths: directories.
    known: name -> parameters of all configurables.

  Raises:
    LoadError: as `load`, for a missing file, wrong syntax, an import, or a name that is none.
  """
  problems = []
  for statement in _read(gin_files, gin_bindings, search_paths):
    if statement.name and not statement.scope:
      problem = name_problem(statement.name, statement.parameter, known)
      if problem is not None:
        problems.append(f'{statement.where}: {problem}')
  if problems:
    raise LoadError('\n'.join(problems))


def _read(
  gin_files: Sequence[str], gin_bindings: Sequence[str], search_paths: Sequence[str]
) -> list[_Statement]:
  """Reads files with their includes, and then the bindings."""
  statements: list[_Statement] = []
  for path in gin_files:
    for statement in _read_file(path, search_paths, ()):
      statements.append(dataclasses.replace(statement, given=path))
  for text in gin_bindings:
    statements += _read_binding(text, search_paths)
  return statements


def _bound(statements: Sequence[_Statement]) -> tuple[Bound, ...]:
  bound: dict[str, Bound] = {}
  values: dict[str, Any] = {}
  for statement in statements:
    key = statement.key
    repeats = ''
    if key in bound and values[key] == statement.value:
      repeats = bound[key].repeats or bound[key].given
    bound[key] = Bound(
      statement.name,
      statement.parameter,
      statement.where,
      statement.given,
      frozenset(_macro_uses(statement.value)),
      repeats,
    )
    values[key] = statement.value  # the last one holds
  return tuple(bound.values())


def parse_binding(text: str) -> None:
  """Checks a binding of the command line.

  Args:
    text: one 'NAME = value' statement.

  Raises:
    LoadError: it is none; for a bare word the message suggests quotes.
  """
  if '=' not in text or text.lstrip().startswith('-'):
    raise LoadError(f"'{text}' is not a binding; write it as NAME=value, without leading dashes")
  if len(list(_parse(text, f"binding '{text}'", None))) != 1:
    raise LoadError(f"binding '{text}' holds more than one statement; give each its own flag")


def _read_binding(text: str, search_paths: Sequence[str]) -> list[_Statement]:
  parse_binding(text)
  where = f"binding '{text}'"
  written = _parse(text, where, search_paths)
  return [dataclasses.replace(one, source=where, from_command_line=True) for one in written]


def _read_file(
  path: str, search_paths: Sequence[str], parents: tuple[str, ...]
) -> list[_Statement]:
  file_path = _find_file(path, search_paths, parents)
  if file_path is None:
    raise LoadError(_missing_file(path, search_paths, parents))
  if file_path in parents:
    circle = ' -> '.join([*parents, file_path])
    raise LoadError(f'{parents[-1]} includes {path}, which includes it again: {circle}')
  try:
    with open(file_path, encoding='utf-8-sig') as file:
      text = file.read()
  except (OSError, UnicodeDecodeError) as error:
    raise LoadError(f'{file_path} cannot be read as text ({error}); save it as UTF-8') from error
  return list(_parse(text, file_path, search_paths, (*parents, file_path)))


def _roots(path: str, search_paths: Sequence[str], parents: Sequence[str]) -> list[str]:
  """Lists where a path is looked up: beside the including file, here, in the search paths."""
  if os.path.isabs(path):
    return ['']
  beside = [os.path.dirname(parent) for parent in parents[-1:]]
  return [*beside, '', *search_paths]


def _find_file(path: str, search_paths: Sequence[str], parents: Sequence[str] = ()) -> str | None:
  """Returns the first file of that path among `_roots`."""
  for root in _roots(path, search_paths, parents):
    file_path = os.path.join(root, path)
    if os.path.isfile(file_path):
      return os.path.normpath(file_path)
  return None


def _parse(
  text: str, source: str, search_paths: Sequence[str] | None, parents: tuple[str, ...] = ()
) -> Iterator[_Statement]:
  """Yields the bindings of one text, its includes expanded; no `search_paths`: bindings only."""
  in_file = bool(parents)
  for statement in _parse_with_gin(text, source, in_file):
    line = statement.location.line_num
    if isinstance(statement, config_parser.BindingStatement):
      yield _as_written(statement, source)
    elif isinstance(statement, config_parser.BlockDeclaration):
      continue  # its bindings follow as statements of their own
    elif search_paths is None or not in_file:
      raise LoadError(f'{source}: only bindings can be given here; include belongs in a gin file')
    elif isinstance(statement, config_parser.IncludeStatement):
      yield from _read_file(statement.filename, search_paths, parents)
    else:
      raise LoadError(_import_message(statement, f'{source}:{line}'))


def _parse_with_gin(text: str, source: str, in_file: bool) -> list[Any]:
  """Returns gin's statements; nothing of them is executed yet."""
  parsed = []
  try:
    parser = config_parser.ConfigParser(io.StringIO(text), _Placeholders())
    # Not `for`: an iterator turns a StopIteration from the tokens into a silent end.
    while (statement := parser.parse_statement()) is not None:
      parsed.append(statement)
  except tokenize.TokenError as error:
    message, (line, _) = error.args
    raise LoadError(
      f'{_place(source, line, in_file)}: {message}; look for an unclosed bracket or string'
    ) from None
  except SyntaxError as error:
    raise LoadError(_syntax_message(error, text, source, in_file)) from None
  except (StopIteration, TypeError, ValueError):
    raise LoadError(f'{source}: a value is not a literal that gin can read') from None
  return parsed


def _as_written(statement: config_parser.BindingStatement, source: str) -> _Statement:
  name = statement.selector
  parameter = statement.arg_name
  if not parameter:  # a macro
    name = ''
    parameter = statement.selector
  return _Statement(
    name=name,
    parameter=parameter,
    scope=statement.scope,
    value=statement.value,
    source=source,
    line=statement.location.line_num,
    from_command_line=False,
  )


def _import_message(statement: config_parser.ImportStatement, where: str) -> str:
  """Refuses an import: gin would run the module."""
  if statement.module.startswith('__gin__'):
    return (
      f'{where}: dynamic registration is not available; register the dataclass with '
      '@configurable(name)'
    )
  return (
    f'{where}: {statement.format()!r} would run a module, and a gin file holds literals only; '
    'remove the line, every configurable of aevo is registered without it'
  )


class _Macros:
  """Macros of all statements: where they are defined, used, and used to an effect."""

  def __init__(self, statements: Sequence[_Statement], effective: dict[str, _Statement]):
    self.defined = {statement.parameter for statement in statements if not statement.name}
    self.used: set[str] = set()
    self.reached: set[str] = set()
    for statement in statements:
      self.used |= _macro_uses(statement.value) - {statement.key}
    for statement in effective.values():
      self.reached |= _macro_uses(statement.value)


def _problems(statements: Sequence[_Statement]) -> list[str]:
  """Lists every mistake that can be seen in the statements as a whole, in the order of the text."""
  known = parameters()
  effective = {statement.key: statement for statement in statements}  # the last one holds
  macros = _Macros(statements, effective)
  first_places: dict[tuple[str, str, str], _Statement] = {}
  useless: set[str] = set()
  problems = []
  for statement in statements:
    where = statement.where
    key = statement.key
    if statement.scope:
      problems.append(
        f"{where}: '{statement.scope}/{key}' has a scope, which would shadow '{key}'; remove "
        f"'{statement.scope}/'"
      )
    elif statement.name:
      problem = name_problem(statement.name, statement.parameter, known)
      if problem is not None:
        problems.append(f'{where}: {problem}')
    elif key in _REQUIRED:
      problems.append(f"{where}: 'REQUIRED' is gin's own; choose another name for the macro")
    elif key not in useless:
      problem = _useless_macro(statement, macros)
      if problem is not None:
        problems.append(f"{where}: macro '{key}' {problem}")
        useless.add(key)
    text = '' if statement.from_command_line else statement.source
    first = first_places.setdefault((text, statement.scope, key), statement)
    if first is not statement and statement.from_command_line:
      problems.append(f"{where}: '{key}' is bound before, by {first.where}; keep one")
    elif first is not statement:
      problems.append(
        f"{where}: '{key}' is bound twice in this file, first in line {first.line}; keep one"
      )
    problems += _value_problems(statement, macros)
  return problems + _effective_problems(effective)


def _useless_macro(statement: _Statement, macros: _Macros) -> str | None:
  """Explains why a macro has no effect, or returns None."""
  key = statement.key
  if key not in macros.used:
    return 'is defined but never used' + _macro_hint(key, macros.used - _REQUIRED)
  if statement.from_command_line and key not in macros.reached:
    return 'has no effect, since every binding that used it is overridden'
  return None


def _value_problems(statement: _Statement, macros: _Macros) -> list[str]:
  """Lists undefined macros and references in a value."""
  where = statement.where
  problems = []
  for macro in sorted(_macro_uses(statement.value) - macros.defined - _REQUIRED):
    hint = suggestion(macro, macros.defined)
    problems.append(f"{where}: macro '%{macro}' is never defined{hint}")
  for reference in _placeholders(statement.value, _Reference):
    problems.append(
      f"{where}: '@{reference.name}' is a reference, which is not available; bind a "
      'name as a string'
    )
  return problems


def _effective_problems(effective: dict[str, _Statement]) -> list[str]:
  """Lists values that are required and missing, and circular macros."""
  problems = []
  for statement in effective.values():
    key = statement.key
    if not _macro_uses(statement.value).isdisjoint(_REQUIRED):
      problems.append(
        f"'{key}' is required but has no value ({statement.where}); set it with --gin.{key}=..."
      )
    elif not statement.name and _reaches_itself(key, effective):
      problems.append(f"{statement.where}: macro '{key}' is defined by itself")
  return problems


def _macro_hint(name: str, used: set[str]) -> str:
  """A lone name may be a misspelt macro, or a parameter whose configurable was left out."""
  for configurable_name, fields in parameters().items():
    if name in fields:
      return f"; did you mean '{configurable_name}.{name}'?"
  if used:
    return suggestion(name, used)
  return f'; use it as %{name}, or remove it'


def _placeholders(value: Any, kind: type) -> list:
  """Collects the placeholders of a kind in a value, containers included."""
  if isinstance(value, kind):
    return [value]
  items = []
  if isinstance(value, dict):
    for pair in value.items():
      items += pair
  elif isinstance(value, (list, tuple)):
    items += value
  placeholders = []
  for item in items:
    placeholders += _placeholders(item, kind)
  return placeholders


def _macro_uses(value: Any) -> set[str]:
  return {use.name for use in _placeholders(value, _MacroUse)}


def _reaches_itself(macro: str, effective: dict[str, _Statement]) -> bool:
  reached: set[str] = set()
  frontier = {macro}
  while frontier:
    uses = set()
    for name in frontier:
      if name in effective:
        uses |= _macro_uses(effective[name].value)
    frontier = uses - reached
    reached |= frontier
  return macro in reached


def _with_gin_macros(value: Any, delegate: ParserDelegate) -> Any:
  if isinstance(value, _MacroUse):
    return delegate.macro(value.name)
  if isinstance(value, dict):
    return {_with_gin_macros(k, delegate): _with_gin_macros(v, delegate) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return type(value)(_with_gin_macros(item, delegate) for item in value)
  return value


def _place(source: str, line: int, in_file: bool) -> str:
  return f'{source}:{line}' if in_file else source


def _syntax_message(error: SyntaxError, text: str, source: str, in_file: bool) -> str:
  """Words gin's syntax error; a bare word gets the quotes that it needs."""
  number = error.lineno or 1
  lines = text.split('\n')
  content = ''
  if number <= len(lines):
    content = lines[number - 1].strip()
  message = (error.msg or 'cannot be read').split('\n')[0]
  if message.startswith('malformed node'):
    message = 'the value is no literal'
  code = content.split('#')[0]
  if _BARE_WORD.search(code):
    name, _, word = code.partition('=')
    word = word.strip()
    message = f"{word} is not a literal; a string needs quotes: {name.strip()} = '{word}'"
  message = f'{_place(source, number, in_file)}: {message}'
  if in_file:
    message += f'\n    {content}'
  return message


def _missing_file(path: str, search_paths: Sequence[str], parents: tuple[str, ...]) -> str:
  """Words a missing file: where it was looked for, and the nearest that exists."""
  message = f'no gin file {path}'
  if parents:
    message += f' (included from {parents[-1]})'
  if os.path.isabs(path):
    message += '; searched the path itself'
  else:
    roots = _roots(path, search_paths, parents)
    searched = dict.fromkeys(os.path.abspath(root) for root in roots)
    message += f'; searched {", ".join(searched)}'
  match = nearest_file(path, search_paths, '.gin')
  if match is not None:
    message += f"; did you mean '{match}'?"
  return message
