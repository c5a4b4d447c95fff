"""Load the gin that people write, and answer their mistakes with a place and a fix.

People's gin may include files, define UPPERCASE macros and override one file with the next. `load`
does everything in one place: it clears gin, reads files (with their includes) and then the bindings
of the command line, checks the whole, binds and finalizes. On any error gin is left empty and
unlocked, never half-loaded.

Narrower than gin, on purpose: no imports (`import os` would run a module, and a gin file holds
literals), no dynamic registration, no scopes (`a/b.c = 1` would shadow `b.c`), no references
(`@f()` would make what ran unrecordable as literals), no parameter bound twice in one file. Wider than gin: a macro that is defined but never used is an error, since `LRR = 9` would
otherwise be accepted in silence.
"""

import dataclasses
import difflib
import io
import os
import re
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any

import gin
from gin import config_parser
from gin.config import ParserDelegate

from aevo_jax.config.configurables import (
  LoadError,
  configurable,
  gin_selector,
  name_problem,
  parameters,
  register_with_gin,
  resolve,
  resolved_bindings,
)
from aevo_jax.config.nearest import nearest, suggestion

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

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return _Reference(scoped_configurable_name)

  def macro(self, macro_name):
    return _MacroUse(macro_name)


@dataclasses.dataclass(frozen=True)
class _Statement:
  """One binding as written. `name` is '' and `parameter` the macro's name for a macro definition."""

  name: str
  parameter: str
  scope: str
  value: Any
  source: str
  line: int
  from_command_line: bool

  @property
  def key(self) -> str:
    return f'{self.name}.{self.parameter}' if self.name else self.parameter

  @property
  def where(self) -> str:
    return self.source if self.from_command_line else f'{self.source}:{self.line}'


def load(
  gin_files: Sequence[str], gin_bindings: Sequence[str], *, search_paths: Sequence[str]
) -> None:
  """Clears gin, loads the files in order and then the bindings, checks them, and locks the result.

  Args:
      gin_files: paths, looked up in the working directory and then in `search_paths`; so are their
        includes.
      gin_bindings: statements such as 'optimizer.learning_rate = 1e-3'; they override the files.
      search_paths: directories.

  Raises:
      LoadError: for every mistake below, all of them in one message where they can be seen at once.
        A missing file,
          wrong syntax, an unknown configurable or parameter, a macro undefined, unused or circular,
          %gin.REQUIRED left without a value, a scope, a reference.
  """
  gin.clear_config()
  loaded = False
  try:
    statements: list[_Statement] = []
    for path in gin_files:
      statements += _read_file(path, search_paths, ())
    for text in gin_bindings:
      statements += _read_binding(text, search_paths)
    problems = _problems(statements)
    if problems:
      raise LoadError('\n'.join(problems))
    register_with_gin()
    delegate = ParserDelegate()
    for statement in statements:
      key = (
        (gin_selector(statement.name), statement.parameter)
        if statement.name
        else (f'{statement.parameter}/gin.macro', 'value')
      )
      gin.bind_parameter('.'.join(key), _with_gin_macros(statement.value, delegate))
    gin.finalize()
    loaded = True
  finally:
    if not loaded:
      gin.clear_config()


def parse_binding(text: str) -> None:
  """Checks that `text` is one 'NAME = value' statement. Raises LoadError, which suggests quotes for
  a bare word.
  """
  if '=' not in text or text.lstrip().startswith('-'):
    raise LoadError(f"'{text}' is not a binding; write it as NAME=value, without leading dashes")
  if len(list(_parse(text, f"binding '{text}'", None))) != 1:
    raise LoadError(f"binding '{text}' holds more than one statement; give each its own flag")


def _read_binding(text: str, search_paths: Sequence[str]) -> list[_Statement]:
  parse_binding(text)
  where = f"binding '{text}'"
  found = []
  for statement in _parse(text, where, search_paths):
    found.append(dataclasses.replace(statement, source=where, from_command_line=True))
  return found


def _read_file(
  path: str, search_paths: Sequence[str], parents: tuple[str, ...]
) -> list[_Statement]:
  roots = [''] if os.path.isabs(path) else ['', *search_paths]
  found = next(
    (os.path.join(root, path) for root in roots if os.path.isfile(os.path.join(root, path))), None
  )
  if found is None:
    raise LoadError(_missing_file(path, search_paths, parents))
  found = os.path.normpath(found)
  if found in parents:
    raise LoadError(
      f'{parents[-1]} includes {path}, which includes it again: ' + ' -> '.join([*parents, found])
    )
  with open(found, encoding='utf-8') as file:
    return list(_parse(file.read(), found, search_paths, (*parents, found)))


def _parse(
  text: str, source: str, search_paths: Sequence[str] | None, parents: tuple[str, ...] = ()
) -> Iterator[_Statement]:
  """Yields the bindings of one text with its includes expanded in place. Without `search_paths`,
  bindings only.
  """
  in_file = bool(parents)
  try:
    parser = config_parser.ConfigParser(io.StringIO(text), _Placeholders())
    parsed = []
    # Not `for statement in parser`: an iterator turns a StopIteration from the tokens into a silent
    # end.
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
  for statement in parsed:
    line = statement.location.line_num
    if isinstance(statement, config_parser.BindingStatement):
      macro = not statement.arg_name
      yield _Statement(
        name='' if macro else statement.selector,
        parameter=statement.selector if macro else statement.arg_name,
        scope=statement.scope,
        value=statement.value,
        source=source,
        line=line,
        from_command_line=False,
      )
    elif isinstance(statement, config_parser.BlockDeclaration):
      continue  # its bindings follow as statements of their own
    elif search_paths is None or not in_file:
      raise LoadError(f'{source}: only bindings can be given here; include belongs in a gin file')
    elif isinstance(statement, config_parser.IncludeStatement):
      yield from _read_file(statement.filename, search_paths, parents)
    else:
      raise LoadError(_import_message(statement, f'{source}:{line}'))


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


def _problems(statements: Sequence[_Statement]) -> list[str]:
  """Returns every mistake that can be seen in the statements as a whole, in the order of the text."""
  known = parameters()
  selectors = [f'{name}.{parameter}' for name, names in known.items() for parameter in names]
  macros = {s.parameter for s in statements if not s.name}
  effective = {s.key: s for s in statements}  # the last of each key: what will hold
  used = {macro for s in statements for macro in _macro_uses(s.value) if macro != s.key}
  reached = {macro for s in effective.values() for macro in _macro_uses(s.value)}
  problems, seen, unused_reported = [], {}, set()
  for statement in statements:
    where, key = statement.where, statement.key
    if statement.scope:
      problems.append(
        f"{where}: '{statement.scope}/{key}' has a scope, which would shadow '{key}'; remove "
        f"'{statement.scope}/'"
      )
    elif statement.name and (problem := name_problem(statement.name, statement.parameter, known)):
      problems.append(f'{where}: {problem}')
    elif key in _REQUIRED:
      problems.append(f"{where}: 'REQUIRED' is gin's own; choose another name for the macro")
    elif not statement.name and key not in unused_reported:
      if key not in used:
        problems.append(
          f"{where}: macro '{key}' is defined but never used"
          + _macro_hint(key, used - _REQUIRED, selectors)
        )
        unused_reported.add(key)
      elif statement.from_command_line and key not in reached:
        problems.append(
          f"{where}: macro '{key}' has no effect, since every binding that used it is overridden"
        )
        unused_reported.add(key)
    if not statement.from_command_line:
      first = seen.setdefault((statement.source, statement.scope, key), statement.line)
      if first != statement.line:
        problems.append(
          f"{where}: '{key}' is bound twice in this file, first in line {first}; keep one"
        )
    for macro in sorted(_macro_uses(statement.value) - macros - _REQUIRED):
      problems.append(f"{where}: macro '%{macro}' is never defined" + suggestion(macro, macros))
    for reference in _placeholders(statement.value, _Reference):
      problems.append(
        f"{where}: '@{reference.name}' is a reference, which is not available; bind a "
        'name as a string'
      )
  for statement in effective.values():
    if not _macro_uses(statement.value).isdisjoint(_REQUIRED):
      problems.append(
        f"'{statement.key}' is required but has no value ({statement.where}); set it with "
        f'--gin.{statement.key}=...'
      )
    elif not statement.name and _reaches_itself(statement.key, effective):
      problems.append(f"{statement.where}: macro '{statement.key}' is defined by itself")
  return problems


def _macro_hint(name: str, used: set[str], selectors: Sequence[str]) -> str:
  """A lone name may be a misspelt macro, or a parameter whose configurable was left out."""
  whole = [selector for selector in selectors if selector.rpartition('.')[2] == name]
  if whole:
    return f"; did you mean '{whole[0]}'?"
  return suggestion(name, used) if used else '; use it as %' + name + ', or remove it'


def _placeholders(value: Any, kind: type) -> list:
  if isinstance(value, kind):
    return [value]
  if isinstance(value, dict):
    return [found for pair in value.items() for item in pair for found in _placeholders(item, kind)]
  if isinstance(value, (list, tuple)):
    return [found for item in value for found in _placeholders(item, kind)]
  return []


def _macro_uses(value: Any) -> set[str]:
  return {use.name for use in _placeholders(value, _MacroUse)}


def _reaches_itself(macro: str, effective: dict[str, _Statement]) -> bool:
  reached, frontier = set(), {macro}
  while frontier:
    frontier = {
      use for name in frontier if name in effective for use in _macro_uses(effective[name].value)
    } - reached
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
  line = error.lineno or 1
  content = text.split('\n')[line - 1].strip() if line <= text.count('\n') + 1 else ''
  message = (error.msg or 'cannot be read').split('\n')[0]
  hint = ''
  if _BARE_WORD.search(content.split('#')[0]):
    name, word = (part.strip() for part in content.split('#')[0].split('=', 1))
    message, hint = f'{word} is not a literal', f"; a string needs quotes: {name} = '{word}'"
  return f'{_place(source, line, in_file)}: {message}{hint}' + (
    f'\n    {content}' if in_file else ''
  )


def _missing_file(path: str, search_paths: Sequence[str], parents: tuple[str, ...]) -> str:
  searched = list(dict.fromkeys([os.getcwd(), *map(str, search_paths)]))
  files = []
  for root in search_paths:
    for directory, names, found in os.walk(root):
      inside = os.path.relpath(directory, root)
      # Gin files lie near the top; a search path may also hold runs and environments, which are
      # large.
      depth = 0 if inside == '.' else inside.count(os.sep) + 1
      names[:] = [] if depth >= 3 else [name for name in names if not name.startswith('.')]
      files += [
        os.path.normpath(os.path.join(inside, name)) for name in found if name.endswith('.gin')
      ]
  names = {os.path.basename(file): file for file in files}
  close = nearest(path, files) or names.get(
    next(iter(difflib.get_close_matches(os.path.basename(path), names, 1)), '')
  )
  included = f' (included from {parents[-1]})' if parents else ''
  return (
    f'no gin file {path}{included}; searched '
    + ('the path itself' if os.path.isabs(path) else ', '.join(searched))
    + (f"; did you mean '{close}'?" if close else '')
  )
