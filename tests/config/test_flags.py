"""The command line: T5X's spelling becomes gin_bindings, and a mistake in it is answered before
anything runs.
"""

import dataclasses

import gin
import pytest
from absl import flags

from aevo_jax.config.flags import (
  GinFlagError,
  bindings,
  define,
  load_from_flags,
  parse,
  rewrite_argv,
)
from aevo_jax.config.loading import LoadError, configurable, load, resolve


@configurable('flagtest')
@dataclasses.dataclass(frozen=True)
class Flagtest:
  rate: float = 0.0
  name: str = ''
  mix: dict[str, float] = dataclasses.field(default_factory=dict)


@pytest.fixture(autouse=True)
def clean_gin():
  gin.clear_config()
  yield
  gin.clear_config()


def test_rewrite_touches_only_its_own_spelling():
  argv = [
    '--gin.prog=1',
    '--gin.optimizer.learning_rate=1e-3',
    '-gin.LR=2',
    '--gin_file=a.gin',
    '--run=x=--gin.y',
    "--gin.a.b='x=y, z'",
    '--ginger.x',
    '--',
    '--gin.left=1',
  ]
  assert rewrite_argv(argv) == [
    '--gin.prog=1',
    '--gin_bindings=optimizer.learning_rate=1e-3',
    '--gin_bindings=LR=2',
    '--gin_file=a.gin',
    '--run=x=--gin.y',
    "--gin_bindings=a.b='x=y, z'",
    '--ginger.x',
    '--',
    '--gin.left=1',
  ]


@pytest.mark.parametrize(
  'argument, said',
  [
    ('--gin.flagtest.rate', 'expected --gin.NAME=value, in one argument'),
    ('--gin.=1', 'expected --gin.NAME=value'),
    ('--gin.flagtest.name=two words', 'no literal; a string with blanks needs quotes'),
    ('--gin.flagtest.name=3rd', '--gin.flagtest.name=3rd'),
    ('--gin.flagtest.name=[a]', '--gin.flagtest.name=[a]'),
    ('--gin.flagtest.name="open', '--gin.flagtest.name="open'),
    ('--gin.flagtest.rate=', '--gin.flagtest.rate='),
    ('--gin.flagtest.rate=1 2', 'Expected newline'),
    ('--gin.flagtest.mix={"a": 1', 'unclosed'),
    ('--gin.flag test.rate=1', '--gin.flag test.rate=1'),
  ],
)
def test_mistakes_suggest_the_fix(argument, said):
  with pytest.raises(GinFlagError) as caught:
    rewrite_argv(['prog', argument])
  assert argument in str(caught.value) and said in str(caught.value)


def test_parse_exits_with_the_message():
  with pytest.raises(SystemExit, match=r'FATAL Flags parsing error: --gin\.x: expected'):
    parse(['prog', '--gin.x'])


@pytest.mark.parametrize(
  ('spelled', 'value'),
  [
    ('adam', 'adam'),
    ('adam_w-2', 'adam_w-2'),
    ('runs/x.jsonl', 'runs/x.jsonl'),
    ('../x', '../x'),
    ('M-*E', 'M-*E'),
    ('~/x', '~/x'),
    ('http://host:8000/v1', 'http://host:8000/v1'),
    ('inf', 'inf'),
    ("'quoted'", 'quoted'),
    ('"quoted"', 'quoted'),
  ],
)
@pytest.mark.parametrize('flag', ['--gin.flagtest.name={}', '--gin_bindings=flagtest.name = {}'])
def test_a_bare_word_is_a_string_on_the_command_line(spelled, value, flag):
  assert from_flags(flag.format(spelled)).name == value


@pytest.mark.parametrize(
  ('spelled', 'said'),
  [
    ('fast', "flagtest.rate expects float, got 'fast' (str)"),
    ('nan', "flagtest.rate expects float, got 'nan' (str)"),
    ('none', "got 'none' (str); write None"),
  ],
)
def test_a_bare_word_is_refused_where_no_string_is_expected(spelled, said):
  with pytest.raises(LoadError) as caught:
    from_flags(f'--gin.flagtest.rate={spelled}')
  assert said in str(caught.value)


@pytest.mark.parametrize('spelled', ['.5', '5e-1', '0.5'])
def test_what_is_a_number_stays_one(spelled):
  assert from_flags(f'--gin.flagtest.rate={spelled}').rate == 0.5


def test_a_macro_is_no_bare_word():
  assert from_flags('--gin.NAME=adam', '--gin.flagtest.name=%NAME').name == 'adam'


def from_flags(*arguments: str) -> Flagtest:
  values = flags.FlagValues()
  define(values)
  values(rewrite_argv(['prog', *arguments]))
  load([], bindings(values), search_paths=[])
  return resolve('flagtest')


def test_from_command_line_to_dataclass(tmp_path):
  (tmp_path / 'a.gin').write_text('flagtest.rate = 1\nflagtest.name = "file"\n')
  values = flags.FlagValues()
  define(values)
  define(values)
  values(
    rewrite_argv(
      [
        'prog',
        '--gin_file=a.gin',
        '--gin.flagtest.rate=2e-3',
        '--gin_bindings=flagtest.mix = {"a": 1, "b": 2}',
      ]
    )
  )
  load_from_flags([str(tmp_path)], values)
  assert resolve('flagtest') == Flagtest(rate=2e-3, name='file', mix={'a': 1.0, 'b': 2.0})


def test_a_configuration_error_ends_without_a_traceback():
  values = flags.FlagValues()
  define(values)
  values(['prog', '--gin_bindings=flagtest.rat=1'])
  with pytest.raises(SystemExit, match=r"configuration error: .*did you mean 'rate'"):
    load_from_flags([], values)
