"""Literal statements: what parses, what is refused and why, and that plain gin would have done the
refused thing.

The controls run gin itself on the same vector, harmlessly (a module that sets a flag, a made-up
secret in a temporary file), so that a refusal here is known to prevent something.
"""

import ast
import contextlib
import dataclasses
import hashlib
import sys

import gin
import hypothesis
import pytest
from gin import config_parser
from hypothesis import strategies as st

from aevo_jax.config.statements import (
  Binding,
  Code,
  StatementError,
  digest,
  parse_statements,
  render,
)


def refused(text: str, **limits) -> StatementError:
  with pytest.raises(StatementError) as caught:
    parse_statements(text, **limits)
  return caught.value


@pytest.fixture
def clean_gin():
  gin.clear_config()
  yield
  gin.clear_config()


@dataclasses.dataclass(frozen=True)
class Frozen:
  budget: float = 1.0


def spill(text: str = '', **anything) -> str:
  SPILLED.append((text, anything))
  return text


SPILLED: list = []
gin.register('vector_target', module='statements_test')(Frozen)
gin.register('vector_spill', module='statements_test')(spill)


def test_reads_every_literal_type_across_lines_and_comments():
  text = '''# a comment, also with é
a.flag = True   # trailing
a.nothing = None
a.count = -1_000
b.rate = 1e-3
b.module.name = 'it\\'s \\x41 é'
c.mix = {'bits': 0.5,
         'units': [1, (2, 3), ()],
         4: {}}
c.parenthesised = ((1))
c.text = """two
lines"""
'''
  values = {binding.selector: binding.value for binding in parse_statements(text)}
  assert values == {
    'a.flag': True,
    'a.nothing': None,
    'a.count': -1000,
    'b.rate': 0.001,
    'b.module.name': "it's A é",
    'c.mix': {'bits': 0.5, 'units': [1, (2, 3), ()], 4: {}},
    'c.parenthesised': 1,
    'c.text': 'two\nlines',
  }
  assert values['a.flag'] is True and type(values['a.count']) is int
  assert parse_statements('') == () == parse_statements('# nothing\n\n')


@pytest.mark.parametrize(
  'text, code',
  [
    ('import os', Code.IMPORT),
    ('import os as o', Code.IMPORT),
    ('from os import path', Code.IMPORT),
    ('from __gin__ import dynamic_registration', Code.IMPORT),
    ('import.x = 1', Code.IMPORT),
    ("include 'a.gin'", Code.INCLUDE),
    ("include '/etc/shadow'", Code.INCLUDE),
    ("include '../x.gin'", Code.INCLUDE),
    ('a.b = 1\ninclude "x"', Code.INCLUDE),
    ('a.b = @f', Code.REFERENCE),
    ('a.b = @s/f()', Code.REFERENCE),
    ('a.b = [1, {"k": @m.f()}]', Code.REFERENCE),
    ('a.b = -@f()', Code.REFERENCE),
    ('a.b = @ f', Code.REFERENCE),
    ('LR = 1', Code.MACRO),
    ('a.b = %LR', Code.MACRO),
    ('a.b = -%LR', Code.MACRO),
    ('a.b = (%gin.REQUIRED,)', Code.MACRO),
    ('s/a.b = 1', Code.SCOPE),
    ('s/t/a.b = 1', Code.SCOPE),
    ('s//a.b = 1', Code.SCOPE),
    ('s/LR = 1', Code.SCOPE),
    ('a.b = 1\na.b = 2', Code.DUPLICATE),
    ("a.b = {'x': 1, 'x': 2}", Code.DUPLICATE),
    ('a.b = {1: 1, 0x1: 2}', Code.DUPLICATE),
    ("a.b = b'x'", Code.LITERAL_TYPE),
    ("a.b = f'{x}'", Code.LITERAL_TYPE),
    ("a.b = r'x'", Code.LITERAL_TYPE),
    ('a.b = 1j', Code.LITERAL_TYPE),
    ('a.b = adam', Code.LITERAL_TYPE),
    ('a.b = inf', Code.LITERAL_TYPE),
    ('a.b = {[1]: 2}', Code.LITERAL_TYPE),
    ('a.b = {1.5: 2}', Code.LITERAL_TYPE),
    ("a.b = '\\N{DASH}'", Code.LITERAL_TYPE),
    ('a.b = lambda: 1', Code.LITERAL_TYPE),
    ("a.b = '\\d'", Code.LITERAL_TYPE),
    ('a.b = 1if', Code.LITERAL_TYPE),
    ("a.b = 'x' 'y'", Code.ADJACENT_STRINGS),
    ("a.b = ['x'\n  # c\n 'y']", Code.ADJACENT_STRINGS),
    ("a.b = 'x' \\\n 'y'", Code.ADJACENT_STRINGS),
    ('a.b = 1e999', Code.NOT_FINITE),
    ('a.b = [-1e999]', Code.NOT_FINITE),
    ('a.b = 9223372036854775808', Code.INT_RANGE),
    ('a.b = 0x' + 'f' * 4000, Code.INT_RANGE),
    ('\u0430.b = 1', Code.NOT_ASCII),
    ('a.\uff42 = 1', Code.NOT_ASCII),
    ('a.b = 1\x00', Code.ENCODING),
    ('a.b = "\ud800"', Code.ENCODING),
    ('a.b = 1\r\n', Code.ENCODING),
    ('a.b = 1\x0ca.c = 2', Code.ENCODING),
    ('a.b = [', Code.SYNTAX),
    ("a.b = '''", Code.SYNTAX),
    ('a.b', Code.SYNTAX),
    ('a.b =', Code.SYNTAX),
    ('= 1', Code.SYNTAX),
    ('a.b = 1; c.d = 2', Code.SYNTAX),
    ('a:\n  b = 1', Code.SYNTAX),
    ('  a.b = 1', Code.SYNTAX),
    ('a.b == 1', Code.SYNTAX),
    ('a .b = 1', Code.SYNTAX),
    ('a.\\\nb = 1', Code.SYNTAX),
    ('a.b = 1 + 1', Code.SYNTAX),
    ('a.b = --1', Code.SYNTAX),
    ('a.b = {1, 2}', Code.SYNTAX),
    ('a.b = 1 2', Code.SYNTAX),
    ('a.b = 0777', Code.SYNTAX),
    ('a.b = -True', Code.SYNTAX),
    ("a.b = -'x'", Code.SYNTAX),
    ('a.b = [1 2]', Code.SYNTAX),
    ('a.b = $', Code.SYNTAX),
    ('1a.b = 1', Code.SYNTAX),
    ('a..b = 1', Code.SYNTAX),
    ('a.b = c.d = 1', Code.LITERAL_TYPE),
    ('a.b = ' + '9' * 5000, Code.SYNTAX),
    ('a.b = f()', Code.LITERAL_TYPE),
    ('a.b = [x for x in []]', Code.LITERAL_TYPE),
  ],
)
def test_refuses_with_its_code(text, code):
  assert refused(text).code is code


def test_size_is_counted_in_bytes_and_depth_in_brackets():
  at_limit = 'a.b = 1 #' + 'x' * (8192 - 9)
  assert parse_statements(at_limit)
  assert refused(at_limit + 'x').code is Code.TOO_LARGE
  assert refused('# ' + 'é' * 5000).code is Code.TOO_LARGE
  assert parse_statements('a.b = ' + '[' * 16 + ']' * 16)
  assert refused('a.b = ' + '[' * 17 + ']' * 17).code is Code.DEPTH
  assert refused('a.b = ' + '(' * 8000).code is Code.DEPTH


def test_error_messages_quote_nothing():
  for text in (
    "include 'canary'",
    'a.b = canary',
    'a.b = [canary',
    'canary!',
    'a.canary = 1\na.canary = 2',
    'a.b = "canary',
  ):
    error = refused(text)
    assert 'canary' not in str(error)
    assert error.__cause__ is None and error.__context__ is None


# The nine vectors of gin as an execution surface: each control shows plain gin doing it.


def test_vector_1_import(tmp_path, monkeypatch, clean_gin):
  (tmp_path / 'vector_one.py').write_text('import sys\nsys.modules["vector_one_ran"] = True\n')
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, 'vector_one_ran', raising=False)
  assert refused('import vector_one').code is Code.IMPORT
  assert 'vector_one_ran' not in sys.modules
  gin.parse_config('import vector_one', skip_unknown=True)
  assert sys.modules.pop('vector_one_ran') is True


def test_vector_2_dynamic_registration_and_attribute_walk(clean_gin):
  text = (
    'from __gin__ import dynamic_registration\nimport string\nstring.capwords.s = "set by gin"\n'
  )
  assert refused(text).code is Code.IMPORT
  assert refused('string.capwords.s = @string.capwords()').code is Code.REFERENCE
  gin.parse_config(text)
  assert (
    'string.capwords.s' in gin.config_str()
  )  # a library function, never registered by us, now takes gin's arguments


def test_vector_3_include_quotes_files(tmp_path, clean_gin):
  secret = tmp_path / 'secret'
  secret.write_text('root:canary-7f3a:1:2\n')
  text = f'include "{secret}"'
  assert 'canary' not in str(refused(text))
  with pytest.raises(SyntaxError) as caught:
    gin.parse_config(text)
  assert 'canary-7f3a' in str(caught.value.text)


def test_vector_4_include_runs_a_package(tmp_path, monkeypatch, clean_gin):
  package = tmp_path / 'vector_four' / 'sub'
  package.mkdir(parents=True)
  (package.parent / '__init__.py').write_text('import sys\nsys.modules["vector_four_ran"] = True\n')
  (package / '__init__.py').write_text('')
  (package / 'x.gin').write_text('')
  monkeypatch.syspath_prepend(tmp_path)
  assert refused('include "vector_four/sub/x.gin"').code is Code.INCLUDE
  assert 'vector_four_ran' not in sys.modules
  gin.parse_config('include "vector_four/sub/x.gin"')
  assert sys.modules.pop('vector_four_ran') is True


def test_vector_5_registered_callables(clean_gin):
  text = 'vector_spill.text = "chosen"\nvector_target.budget = @vector_spill()'
  assert refused(text).code is Code.REFERENCE
  gin.parse_config(text)
  SPILLED.clear()
  gin.get_bindings('vector_target')
  assert SPILLED == [('chosen', {})]


@pytest.mark.parametrize(
  'text, code',
  [
    ('vector_target.budget = 1.0\nouter/vector_target.budget = 9.0', Code.SCOPE),
    ('vector_target.budget = 1.0\nvector_target.budget = 9.0', Code.DUPLICATE),
    ('B = 1.0\nvector_target.budget = %B\nB = 9.0', Code.MACRO),
  ],
)
def test_vector_6_shadowing(text, code, clean_gin):
  assert refused(text).code is code
  gin.parse_config(text)
  with gin.config_scope('outer'):
    assert gin.get_bindings('vector_target') == {'budget': 9.0}


def test_vector_6_silently_accepted_names(clean_gin):
  assert refused('LRR = 9').code is Code.MACRO
  gin.parse_config('LRR = 9\nvector_spill.no_such_name = 1\n')  # **kwargs takes any name
  gin.parse_config(
    'vector_tarrget.budget = 9', skip_unknown=True
  )  # a misspelt frozen binding vanishes
  gin.finalize()


def test_vector_7_the_lock_does_not_hold(clean_gin):
  gin.finalize()
  with pytest.raises(KeyError), gin.unlock_config():
    raise KeyError
  assert (
    not gin.config_is_locked()
  )  # so agent text must never reach gin; here it cannot touch gin's state at all
  before = gin.config_str()
  parse_statements('vector_target.budget = 9.0')
  assert gin.config_str() == before


def test_vector_8_operative_config_is_no_record(clean_gin):
  gin.parse_config('vector_target.budget = 2.0')
  assert gin.get_configurable('vector_target')(budget=7.0).budget == 7.0
  assert 'budget' not in gin.operative_config_str().replace(
    '# None', ''
  )  # hence `render` of what was resolved
  assert render(parse_statements('vector_target.budget = 7.0')) == 'vector_target.budget = 7.0\n'


def test_vector_9_loops_nesting_infinity_and_unclosed(tmp_path, clean_gin):
  loop = tmp_path / 'loop.gin'
  loop.write_text(f'include "{loop}"\n')
  assert refused(loop.read_text()).code is Code.INCLUDE
  with pytest.raises((RecursionError, OSError)):
    gin.parse_config_file(str(loop))
  assert refused('a.b = 1e999').code is Code.NOT_FINITE
  assert gin.config.parse_value('1e999') == float('inf')
  assert refused('a.b = [' * 3).code is not None
  depth = 60
  assert refused('a.b = ' + '[' * depth + ']' * depth).code is Code.DEPTH
  assert gin.config.parse_value('[' * depth + ']' * depth)


@contextlib.contextmanager
def evaluated():
  """Yields the list of lengths of all texts that `ast.literal_eval` gets, by Python's profiler."""
  lengths = []

  def note(frame, event, _):
    if event == 'call' and frame.f_code is ast.literal_eval.__code__:
      lengths.append(len(frame.f_locals['node_or_string']))

  before = sys.getprofile()
  sys.setprofile(note)
  try:
    yield lengths
  finally:
    sys.setprofile(before)


def test_adjacent_strings_never_reach_gin():
  """Gin evaluates a growing string once per literal; here gin's parser is not even built."""
  text = 'a.b = ' + "'a' " * 1500
  with evaluated() as lengths:
    config_parser.ConfigParser(text, gin.config.ParserDelegate()).parse_statement()
  assert sum(lengths) > 100 * len(text)  # the control: quadratic work
  with evaluated() as lengths:
    assert refused(text).code is Code.ADJACENT_STRINGS
  assert lengths == []


# Canonical text.


def test_canonical_text_by_hand():
  bindings = (Binding('b.x', {'z': 1, 'a': (1.0,), 3: [True, None, ()]}), Binding('a.y', "é'\n"))
  assert render(bindings) == (
    "a.y = \"\\xe9'\\n\"\nb.x = {3: [True, None, ()], 'a': (1.0,), 'z': 1}\n"
  )
  assert (
    digest(bindings)
    == hashlib.sha256(render(bindings).encode()).hexdigest()
    == digest(reversed(bindings))
  )
  assert (
    len(
      {
        digest([Binding('a.b', value)])
        for value in (1, 1.0, True, '1', [1], (1,), {1: 1}, None, -0.0, 0.0)
      }
    )
    == 10
  )
  with pytest.raises(StatementError, match='bound twice'):
    render([Binding('a.b', 1), Binding('a.b', 2)])


@pytest.mark.parametrize(
  'selector, value',
  [
    ('a', 1),
    ('a/b.c', 1),
    ('a.b\n', 1),
    ('é.b', 1),
    ('a.b', 1j),
    ('a.b', {1, 2}),
    ('a.b', float('nan')),
    ('a.b', b'x'),
    ('a.b', [2**63]),
    ('a.b', {None: 1}),
  ],
)
def test_a_binding_cannot_hold_what_cannot_be_written(selector, value):
  with pytest.raises(StatementError):
    Binding(selector, value)


SELECTORS = st.from_regex(
  r'[A-Za-z_][A-Za-z0-9_]{0,6}(\.[A-Za-z_][A-Za-z0-9_]{0,6}){1,2}', fullmatch=True
).filter(lambda selector: selector.split('.')[0] not in ('import', 'from', 'include'))
SCALARS = (
  st.none()
  | st.booleans()
  | st.integers(-(2**63), 2**63 - 1)
  | st.floats(allow_nan=False, allow_infinity=False)
  | st.text(st.characters(), max_size=12)
)
VALUES = st.recursive(
  SCALARS,
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.text(max_size=4) | st.integers(-9, 9), inner, max_size=3)
  ),
  max_leaves=8,
)


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.dictionaries(SELECTORS, VALUES, max_size=4))
def test_render_then_parse_is_identity(values):
  bindings = tuple(Binding(selector, values[selector]) for selector in sorted(values))
  parsed = parse_statements(render(bindings), max_bytes=10**6)
  assert parsed == bindings
  # == takes 1 for True and -0.0 for 0.0; repr does not (dict order aside, which the canonical text
  # sorts).
  assert render(parsed) == render(bindings)


FRAGMENTS = st.sampled_from(
  [
    'a.b',
    '=',
    ' = ',
    '1',
    "'x'",
    '"',
    "'''",
    '[',
    ']',
    '{',
    '}',
    '(',
    ')',
    ',',
    ':',
    '\n',
    '\\\n',
    '  ',
    '\t',
    '#',
    '@f',
    '@',
    '%M',
    '/',
    's/',
    'import ',
    'include ',
    'from ',
    'os',
    '1e999',
    '-',
    '1j',
    'True',
    'é',
    '\x00',
    '\\',
    "b'",
    "f'{",
    '}',
    '$',
    '!',
    '0x',
    '1_',
    '...',
    ':=',
    '->',
    '\ud800',
    '\u2028',
    '—',
    '1if',
  ]
)


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(st.lists(FRAGMENTS, max_size=25).map(''.join) | st.text(max_size=60))
def test_fuzz_closed_error_set(text):
  try:
    bindings = parse_statements(text)
  except StatementError as error:
    assert isinstance(error.code, Code)
  else:
    assert parse_statements(render(bindings), max_bytes=10**6) == tuple(
      sorted(bindings, key=lambda b: b.selector)
    )


def test_names_that_a_statement_could_begin_with_are_no_selectors():
  """`import.x` would be a legal identifier chain to gin; what cannot be parsed cannot be built."""
  for word in ('import', 'from', 'include'):
    with pytest.raises(StatementError):
      Binding(f'{word}.x', 1)
