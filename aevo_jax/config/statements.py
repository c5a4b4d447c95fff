"""Literal gin statements: parsed without executing anything, and rendered as canonical text.

Gin is an execution surface: `import x` runs a module, `include 'f'` reads (and on error quotes) a
file, `@f()` calls a function, `scope/f.x` shadows a binding that was thought frozen. Text that an
agent wrote therefore never reaches `gin.parse_config`. It goes through this file instead, in this
order:

1. Size, encoding and control characters are checked on the raw text.
2. The tokens are walked once: imports, includes, references, macros, scopes, blocks, f-strings,
   bytes, complex numbers, adjacent string literals and deep nesting are refused here, before gin's
   parser sees the text. (Gin re-evaluates a growing string for each adjacent literal, which is
   quadratic: 64 KiB of `'a'` takes 23 s.)
3. Gin's own recursive-descent `ConfigParser` reads the values, with a delegate that refuses every
   reference and macro.
4. The values are checked: None, bool, int (64 bit), finite float, str, and lists, tuples and dicts
   of those.

What comes out is a tuple of `Binding`s. `render` writes them back as canonical text and `digest`
names that text. `untrusted` does the same in a child process under a CPU limit. This file is
also that child's program, so it imports only the standard library and gin's parser. Error messages
are fixed sentences with a line number: they never quote the text.
"""

import dataclasses
import enum
import hashlib
import io
import itertools
import json
import math
import re
import resource
import sys
import tokenize
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

MAX_BYTES = 8192
MAX_DEPTH = 16

# A first word that gin reads as a statement of its own is no configurable.
_SELECTOR = re.compile(
  r'(?!(?:import|from|include)\.)[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+\Z'
)
_CONTROL = re.compile(r'[\x00-\x08\x0b-\x1f\x7f]')
# Only the escapes that repr() writes: others warn (`\d`), or look names up in a table (`\N{...}`).
_PLAIN_STRING = re.compile(
  r"""(?s)(?P<quote>'''|\"\"\"|'|")(?:[^\\]|\\[\\'"nrtabfv0\n]|\\x[0-9a-fA-F]{2}"""
  r"""|\\u[0-9a-fA-F]{4}|\\U[0-9a-fA-F]{8})*(?P=quote)\Z"""
)
_VALUE_NAMES = frozenset({'True', 'False', 'None'})
_OPEN = frozenset('([{')
_CLOSE = frozenset(')]}')
_SKIPPED_TOKENS = frozenset({tokenize.COMMENT, tokenize.NL, tokenize.DEDENT})


class Code(enum.StrEnum):
  """Why a text was refused: the closed set of reasons."""

  TOO_LARGE = 'too_large'
  ENCODING = 'encoding'
  NOT_ASCII = 'not_ascii'
  SYNTAX = 'syntax'
  IMPORT = 'import'
  INCLUDE = 'include'
  REFERENCE = 'reference'
  MACRO = 'macro'
  SCOPE = 'scope'
  DUPLICATE = 'duplicate'
  LITERAL_TYPE = 'literal_type'
  DEPTH = 'depth'
  ADJACENT_STRINGS = 'adjacent_strings'
  NOT_FINITE = 'not_finite'
  INT_RANGE = 'int_range'
  TIMEOUT = 'timeout'


class StatementError(ValueError):
  """A text that is not a list of literal bindings.

  `code` says why; the message never quotes the text.
  """

  def __init__(self, code: Code, message: str):
    super().__init__(f'{code.value}: {message}')
    self.code = code
    self.message = message


@dataclasses.dataclass(frozen=True)
class Binding:
  """One `configurable.parameter = literal`.

  Attributes:
    selector: full ASCII name, at least one dot, no scope.
    value: None, bool, int (64 bit), finite float, str, or a list, tuple or dict (keys str or int)
      of those.

  Raises:
    StatementError: on construction, if either is outside of that.
  """

  selector: str
  value: Any

  def __post_init__(self):
    if not _SELECTOR.match(self.selector):
      raise StatementError(
        Code.SYNTAX, "a selector is 'configurable.parameter' in ASCII letters, digits and _"
      )
    _check_value(self.value, 'the value')


def parse_statements(
  text: str, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH
) -> tuple[Binding, ...]:
  """Parses literal bindings, one per line (brackets may span lines, # starts a comment).

  Args:
    text: gin text; nothing in it is executed, imported, opened or looked up.
    max_bytes: limit on the UTF-8 length.
    max_depth: limit on the nesting of brackets.

  Returns:
    The bindings in the order written.

  Raises:
    StatementError: for every text that is not such a list; no other exception depends on the text.
  """
  check_text(text, max_bytes)
  with warnings.catch_warnings():
    # The tokenizer warns of texts such as `1if`, which are refused below whatever the caller's
    # warning filter.
    warnings.simplefilter('ignore')
    logical_lines = _check_tokens(text, max_depth)
    parsed, error = _read_with_gin(text)
  if error is not None:
    raise error
  if [statement.line for statement in parsed] != [line.number for line in logical_lines]:
    raise StatementError(Code.SYNTAX, 'the statements do not end where their lines end')
  bindings = []
  seen = set()
  for statement, logical_line in zip(parsed, logical_lines, strict=True):
    where = f'line {statement.line}'
    if statement.selector in seen:
      raise StatementError(Code.DUPLICATE, f'{where} binds a parameter that an earlier line binds')
    seen.add(statement.selector)
    # Every dict item has one colon, and nothing else in a value has any: fewer items means equal
    # keys.
    if _check_value(statement.value, where) != logical_line.colons:
      raise StatementError(Code.DUPLICATE, f'{where}: a dict has the same key twice')
    bindings.append(Binding(statement.selector, statement.value))
  return tuple(bindings)


def check_text(text: str, max_bytes: int) -> bytes:
  """Checks what can be checked without tokens.

  Args:
    text: gin text.
    max_bytes: limit on the UTF-8 length.

  Returns:
    The UTF-8 bytes.

  Raises:
    StatementError: too many bytes, a lone surrogate or a control character.
  """
  try:
    encoded = text.encode('utf-8')
  except UnicodeEncodeError:
    encoded = None
  if encoded is None:
    raise StatementError(Code.ENCODING, 'the text is not valid Unicode (it holds a lone surrogate)')
  if len(encoded) > max_bytes:
    raise StatementError(
      Code.TOO_LARGE, f'the text has {len(encoded)} bytes; at most {max_bytes} are read'
    )
  if _CONTROL.search(text):
    raise StatementError(
      Code.ENCODING, 'the text holds a control character; use \\n line ends and escapes in strings'
    )
  return encoded


def render(bindings: Iterable[Binding]) -> str:
  """Renders bindings as canonical ASCII text.

  `parse_statements(render(b))` gives the same selectors, values and types, sorted by selector.

  Args:
    bindings: in any order.

  Returns:
    One binding a line, sorted by selector; dicts are sorted by key, floats are as repr gives them.

  Raises:
    StatementError: code `duplicate`, if two bindings have one selector.
  """
  ordered = sorted(bindings, key=lambda binding: binding.selector)
  for first, second in itertools.pairwise(ordered):
    if first.selector == second.selector:
      raise StatementError(Code.DUPLICATE, f'{first.selector} is bound twice')
  return ''.join(f'{binding.selector} = {render_value(binding.value)}\n' for binding in ordered)


def render_value(value: Any) -> str:
  """Renders one value as its canonical literal.

  Args:
    value: what a `Binding` may hold.

  Returns:
    ASCII text; equal text means equal value and equal types.
  """
  if isinstance(value, list):
    return f'[{_render_items(value)}]'
  if isinstance(value, tuple):
    return f'({_render_items(value)},)' if len(value) == 1 else f'({_render_items(value)})'
  if isinstance(value, dict):
    items = []
    for key in sorted(value, key=lambda key: (isinstance(key, str), key)):
      items.append(f'{key!a}: {render_value(value[key])}')
    return '{' + ', '.join(items) + '}'
  return ascii(value)


def _render_items(values: Iterable) -> str:
  return ', '.join(render_value(value) for value in values)


def digest(bindings: Iterable[Binding]) -> str:
  """Returns the SHA-256 of the canonical text, in hexadecimal."""
  return hashlib.sha256(render(bindings).encode('ascii')).hexdigest()


class _LogicalLine(NamedTuple):
  """A statement as its tokens show it: line number, and the number of colons in its value."""

  number: int
  colons: int


class _Statement(NamedTuple):
  """A statement as gin's parser reads it."""

  line: int
  selector: str
  value: Any


def _check_tokens(text: str, max_depth: int) -> list[_LogicalLine]:
  """Refuses all but `name.name = literal` lines by their tokens."""
  lines = []
  statement = []
  problem = None
  depth = 0
  try:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
      depth += _depth_change(token)
      if depth > max_depth:
        raise StatementError(
          Code.DEPTH, f'line {token.start[0]}: brackets nest deeper than {max_depth}'
        )
      if token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
        if statement:
          lines.append(_LogicalLine(statement[0].start[0], _check_statement(statement)))
          statement = []
      elif token.type == tokenize.INDENT:
        raise StatementError(
          Code.SYNTAX,
          f'line {token.start[0]}: indented; write one '
          "'configurable.parameter = value' per line, not a block",
        )
      elif token.type not in _SKIPPED_TOKENS:
        statement.append(token)
  except (tokenize.TokenError, SyntaxError):
    # Raised below, outside of this handler: the tokenizer's exception quotes the line.
    problem = StatementError(
      Code.SYNTAX, 'not complete: look for an unclosed bracket or string, or a stray character'
    )
  if problem is not None:
    raise problem
  return lines


def _depth_change(token: tokenize.TokenInfo) -> int:
  if token.type != tokenize.OP:
    return 0
  return (token.string in _OPEN) - (token.string in _CLOSE)


def _check_statement(tokens: list[tokenize.TokenInfo]) -> int:
  """Checks one logical line's tokens; returns the number of colons in the value."""
  line = f'line {tokens[0].start[0]}'
  if tokens[0].string in ('import', 'from'):
    raise StatementError(Code.IMPORT, f'{line}: imports are not allowed here')
  if tokens[0].string == 'include':
    raise StatementError(Code.INCLUDE, f'{line}: includes are not allowed here')
  equals = next((i for i, token in enumerate(tokens) if token.string == '='), None)
  selector = tokens[:equals]
  _check_name_tokens(selector, line)
  if equals is None or equals + 1 == len(tokens):
    raise StatementError(Code.SYNTAX, f"{line}: expected 'configurable.parameter = value'")
  if len(selector) == 1 and selector[0].type == tokenize.NAME:
    raise StatementError(
      Code.MACRO, f'{line}: a name without a dot would define a macro, which is not allowed here'
    )
  if not _is_selector(selector):
    raise StatementError(Code.SYNTAX, f"{line}: expected 'configurable.parameter' before '='")
  for previous, token in itertools.pairwise(tokens[equals:]):
    _check_value_token(previous, token)
  return sum(token.string == ':' for token in tokens[equals + 1 :])


def _check_name_tokens(selector: list[tokenize.TokenInfo], line: str) -> None:
  """Refuses scopes and names outside of ASCII."""
  for token in selector:
    if token.string.startswith('/'):
      raise StatementError(Code.SCOPE, f"{line}: scopes ('a/b.c') are not allowed here")
    if token.string.startswith(('@', '%')):
      return
    if token.type == tokenize.NAME and not token.string.isascii():
      raise StatementError(Code.NOT_ASCII, f'{line}: names are ASCII')


def _is_selector(tokens: list[tokenize.TokenInfo]) -> bool:
  """Whether tokens spell a selector without white space in it."""
  for token, following in itertools.pairwise(tokens):
    if token.end != following.start:
      return False
  return _SELECTOR.match(''.join(token.string for token in tokens)) is not None


def _check_value_token(previous: tokenize.TokenInfo, token: tokenize.TokenInfo) -> None:
  line = f'line {token.start[0]}'
  if token.type == tokenize.STRING:
    if previous.type == tokenize.STRING:
      raise StatementError(
        Code.ADJACENT_STRINGS, f'{line}: adjacent string literals; join them into one'
      )
    if not _PLAIN_STRING.match(token.string):
      raise StatementError(
        Code.LITERAL_TYPE, f'{line}: only plain strings with simple escapes; no b, f, r or u prefix'
      )
  elif token.type == tokenize.NUMBER:
    if token.string[-1] in 'jJ':
      raise StatementError(Code.LITERAL_TYPE, f'{line}: complex numbers are not allowed here')
  elif token.type == tokenize.NAME:
    if token.string not in _VALUE_NAMES:
      raise StatementError(
        Code.LITERAL_TYPE, f'{line}: a bare word is not a literal; put strings in quotes'
      )
  elif token.type == tokenize.FSTRING_START:
    raise StatementError(Code.LITERAL_TYPE, f'{line}: f-strings are not allowed here')
  elif token.string.startswith('@'):
    raise StatementError(Code.REFERENCE, f"{line}: references ('@f') are not allowed here")
  elif token.string.startswith('%'):
    raise StatementError(Code.MACRO, f"{line}: macros ('%NAME') are not allowed here")
  elif token.type != tokenize.OP or token.string not in '([{,:-}])':
    raise StatementError(Code.SYNTAX, f'{line}: a value is a literal, not an expression')


def _read_with_gin(text: str) -> tuple[list[_Statement], StatementError | None]:
  """Reads the statements with gin's parser.

  The error is returned, not raised, so that gin's exception, which quotes lines, is not left behind
  as its context.
  """
  # The child runs this file before it has extended its path.
  from gin import config_parser  # noqa: PLC0415

  class RefusingDelegate(config_parser.ParserDelegate):
    """Unreachable after the token check; the two checks do not depend on each other."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
      raise SyntaxError('reference')

    def macro(self, macro_name):
      raise SyntaxError('macro')

  parsed = []
  try:
    parser = config_parser.ConfigParser(text, RefusingDelegate())
    # Not `for statement in parser`: an iterator turns a StopIteration from the tokens into a silent
    # end.
    while (statement := parser.parse_statement()) is not None:
      if not isinstance(statement, config_parser.BindingStatement) or statement.scope:
        return [], StatementError(Code.SYNTAX, 'only unscoped bindings are allowed here')
      selector = f'{statement.selector}.{statement.arg_name}'
      parsed.append(_Statement(statement.location.line_num, selector, statement.value))
  except TypeError:  # dict() of a list key
    return [], StatementError(Code.LITERAL_TYPE, 'dict keys are strings or integers')
  except (SyntaxError, tokenize.TokenError, StopIteration, ValueError):
    return [], StatementError(Code.SYNTAX, 'a value is not a literal that gin can read')
  return parsed, None


def _check_value(value: Any, where: str, depth: int = 0) -> int:
  """Checks a value's types and ranges; returns the number of dict items in it."""
  if depth > 200:  # deeper than any text can be; values built in Python may refer to themselves
    raise StatementError(Code.DEPTH, f'{where}: nested too deeply')
  if type(value) is float:  # exact types: numpy's float64 is a float whose repr is no literal
    if not math.isfinite(value):
      raise StatementError(Code.NOT_FINITE, f'{where}: numbers are finite')
  elif type(value) is int:
    if not -(2**63) <= value < 2**63:
      raise StatementError(Code.INT_RANGE, f'{where}: integers have 64 bits')
  elif type(value) in (list, tuple):
    return sum(_check_value(item, where, depth + 1) for item in value)
  elif type(value) is dict:
    for key in value:
      if type(key) not in (str, int):
        raise StatementError(Code.LITERAL_TYPE, f'{where}: dict keys are strings or integers')
    items = len(value)
    for key, item in value.items():
      items += _check_value(key, where) + _check_value(item, where, depth + 1)
    return items
  elif value is not None and type(value) not in (bool, str):
    raise StatementError(
      Code.LITERAL_TYPE, f'{where}: not a bool, number, string, list, tuple, dict or None'
    )
  return 0


def _to_json(value: Any) -> Any:
  """Tags containers, since JSON has no tuples and no integer keys."""
  if isinstance(value, (list, tuple)):
    return [type(value).__name__, [_to_json(item) for item in value]]
  if isinstance(value, dict):
    return ['dict', [[key, _to_json(item)] for key, item in value.items()]]
  return value


def _serve(cpu_seconds: str, max_bytes: str, max_depth: str, gin_root: str) -> None:
  """The child of `untrusted.parse_untrusted`: text on stdin, one JSON object on stdout."""
  sys.path.append(gin_root)
  from gin import config_parser  # noqa: F401, PLC0415  imported before the clock starts

  usage = resource.getrusage(resource.RUSAGE_SELF)
  limit = math.ceil(usage.ru_utime + usage.ru_stime) + int(cpu_seconds)
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
  text = sys.stdin.buffer.read().decode('utf-8')
  try:
    bindings = parse_statements(text, max_bytes=int(max_bytes), max_depth=int(max_depth))
    reply = {'bindings': [[binding.selector, _to_json(binding.value)] for binding in bindings]}
  except StatementError as error:
    reply = {'code': error.code.value, 'message': error.message}
  sys.stdout.write(json.dumps(reply, allow_nan=False))


if __name__ == '__main__':
  _serve(*sys.argv[1:])
