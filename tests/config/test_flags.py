"""The command line: T5X's spelling becomes gin_bindings, and a mistake in it is answered before
anything runs.
"""

import dataclasses

import gin
import pytest
from absl import flags

from aevo_jax.config.flags import GinFlagError, define, load_from_flags, parse, rewrite_argv
from aevo_jax.config.loading import configurable, resolve


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
    ('--gin.flagtest.name=adam', """in a shell: --gin.flagtest.name='"adam"'"""),
    ('--gin.flagtest.name=adam_w', "a string needs quotes: flagtest.name = 'adam_w'"),
    ('--gin.flagtest.name=runs/x', "a string needs quotes: flagtest.name = 'runs/x'"),
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
