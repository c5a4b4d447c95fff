"""People's gin: what loads, what it resolves to, and that each mistake is answered with its place
and its fix.
"""

import dataclasses
import pathlib
import sys
import typing

import gin
import pytest

from aevo_jax.config.loading import (
  LoadError,
  configurable,
  load,
  parse_binding,
  resolve,
  resolved_bindings,
)
from aevo_jax.config.statements import Binding


@configurable('loadtest_optimizer')
@dataclasses.dataclass(frozen=True)
class Optimizer:
  learning_rate: float = 1e-3
  name: typing.Literal['adam', 'sgd'] = 'adam'
  betas: tuple[float, float] = (0.9, 0.999)
  clip: float | None = None
  steps: int = 10

  def __post_init__(self):
    if self.steps < 1:
      raise ValueError(f'steps is at least 1, got {self.steps}')


@configurable('loadtest_data')
@dataclasses.dataclass(frozen=True)
class Data:
  path: str
  mix: dict[str, float] = dataclasses.field(default_factory=dict)
  families: tuple[str, ...] = ()
  shuffle: bool = True


@configurable('nested.loadtest_data')
@dataclasses.dataclass(frozen=True)
class NestedData:
  """A name that ends like another: gin alone would call 'loadtest_data' ambiguous."""

  size: int | float = 1


@pytest.fixture(autouse=True)
def clean_gin():
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.fixture
def root(tmp_path):
  (tmp_path / 'configs').mkdir()
  return tmp_path


def write(root, name, text):
  (root / 'configs' / name).write_text(text)
  return f'configs/{name}'


def error(files=(), bindings=(), root='') -> str:
  with pytest.raises(LoadError) as caught:
    load(files, bindings, search_paths=[str(root)] if root else [])
  assert not gin.config_is_locked() and not gin.config.config_str().strip()  # nothing half-loaded
  return str(caught.value)


def test_files_includes_macros_and_bindings_in_order(root):
  write(
    root,
    'base.gin',
    'LR = %gin.REQUIRED\nSTEPS = 20\nloadtest_optimizer.learning_rate = %LR\n'
    'loadtest_optimizer:\n  steps = %STEPS\n  name = "sgd"\n',
  )
  small = write(
    root,
    'small.gin',
    "include 'configs/base.gin'\nLR = 1e-2\nloadtest_data.path = 'x'\n"
    "loadtest_data.families = ['bits']\nloadtest_data.mix = {'bits': %SHARE}\nSHARE = 1\n",
  )
  load(
    [small],
    ['STEPS = 30', 'loadtest_optimizer.name = "adam"', 'nested.loadtest_data.size = 2'],
    search_paths=[str(root)],
  )
  assert gin.config_is_locked()
  assert resolve('loadtest_optimizer') == Optimizer(learning_rate=0.01, name='adam', steps=30)
  data = resolve('loadtest_data')
  assert data == Data('x', {'bits': 1.0}, ('bits',)) and type(data.mix['bits']) is float
  assert resolve('nested.loadtest_data').size == 2
  assert resolved_bindings(['loadtest_optimizer']) == (
    Binding('loadtest_optimizer.betas', (0.9, 0.999)),
    Binding('loadtest_optimizer.clip', None),
    Binding('loadtest_optimizer.learning_rate', 0.01),
    Binding('loadtest_optimizer.name', 'adam'),
    Binding('loadtest_optimizer.steps', 30),
  )


def test_each_load_starts_afresh_and_errors_leave_nothing(root):
  load([], ['loadtest_optimizer.steps = 7'], search_paths=[])
  assert resolve('loadtest_optimizer').steps == 7
  load([], [], search_paths=[])
  assert resolve('loadtest_optimizer').steps == 10
  error(bindings=['loadtest_optimizer.steps = 7', 'nothing.known = 1'])
  with pytest.raises(LoadError, match='call load'):
    resolve('loadtest_optimizer')


def test_working_directory_comes_before_the_search_path(root, tmp_path_factory, monkeypatch):
  name = write(root, 'x.gin', 'loadtest_optimizer.steps = 1')
  here = tmp_path_factory.mktemp('here')
  (here / 'configs').mkdir()
  write(here, 'x.gin', 'loadtest_optimizer.steps = 2')
  monkeypatch.chdir(here)
  load([name], [], search_paths=[str(root)])
  assert resolve('loadtest_optimizer').steps == 2


def test_an_include_is_looked_up_beside_its_file_first(root, tmp_path_factory, monkeypatch):
  """Then in the working directory and the search path, also one include further down."""
  mine = tmp_path_factory.mktemp('mine')
  (mine / 'parts').mkdir()
  (mine / 'configs').mkdir()
  write(root, 'x.gin', 'loadtest_optimizer.steps = 1')
  outer = mine / 'outer.gin'
  outer.write_text("include 'parts/inner.gin'\n")
  (mine / 'parts' / 'inner.gin').write_text("include 'leaf.gin'\ninclude 'configs/x.gin'\n")
  (mine / 'parts' / 'leaf.gin').write_text('loadtest_optimizer.name = "sgd"\n')
  load([str(outer)], [], search_paths=[str(root)])
  assert (resolve('loadtest_optimizer').steps, resolve('loadtest_optimizer').name) == (1, 'sgd')
  monkeypatch.chdir(mine)
  (mine / 'configs' / 'x.gin').write_text('loadtest_optimizer.steps = 2\n')
  load(['outer.gin'], [], search_paths=[str(root)])
  assert resolve('loadtest_optimizer').steps == 2
  (mine / 'parts' / 'leaf.gin').unlink()
  message = error(['outer.gin'], root=root)
  assert f'searched {mine / "parts"}, {mine}, {root}' in message


def test_a_file_as_an_editor_saves_it(root):
  path = pathlib.Path(root, write(root, 'x.gin', ''))
  path.write_bytes(b'\xef\xbb\xbfloadtest_optimizer.steps = 5\r\n')
  load(['configs/x.gin'], [], search_paths=[str(root)])
  assert resolve('loadtest_optimizer').steps == 5
  path.write_bytes('loadtest_optimizer.steps = 5  # für'.encode('latin-1'))
  assert 'x.gin cannot be read as text' in error(['configs/x.gin'], root=root)


@pytest.mark.parametrize(
  'statement',
  [
    'import loadtest_plugin',
    'import loadtest_plugin as plugin',
    'import loadtest_package.plugin',
    'import loadtest_package.plugin as plugin',
    'from loadtest_package import plugin',
    'from loadtest_package import plugin as other',
    'import os',
    'import no_such_module',
  ],
)
@pytest.mark.parametrize('included', [False, True])
def test_an_import_is_refused_and_runs_nothing(root, monkeypatch, statement, included):
  monkeypatch.syspath_prepend(root)
  (root / 'loadtest_plugin.py').write_text('raise SystemExit\n')
  (root / 'loadtest_package').mkdir()
  (root / 'loadtest_package' / '__init__.py').write_text('raise SystemExit\n')
  (root / 'loadtest_package' / 'plugin.py').write_text('raise SystemExit\n')
  file = write(root, 'x.gin', f'loadtest_optimizer.steps = 3\n{statement}\n')
  if included:
    file = write(root, 'outer.gin', "include 'configs/x.gin'\n")
  message = error([file], root=root)
  assert f"x.gin:2: '{statement}' would run a module" in message and 'remove the line' in message
  assert not {'loadtest_plugin', 'loadtest_package'} & set(sys.modules)


@pytest.mark.parametrize(
  'statement',
  [
    'from __gin__ import dynamic_registration',
    'import __gin__.dynamic_registration',
    'from __gin__ import dynamic_registration as d',
  ],
)
def test_dynamic_registration_is_refused(root, statement):
  message = error([write(root, 'x.gin', f'\n{statement}\n')], root=root)
  assert 'x.gin:2: ' in message


@pytest.mark.parametrize('binding', ['import os', 'from os import path', "include 'x.gin'"])
def test_a_binding_of_the_command_line_is_no_import(binding):
  assert 'NAME=value' in error(bindings=[binding])


def test_a_class_registered_after_loading_resolves_to_its_defaults():
  load([], [], search_paths=[])

  @configurable('loadtest_late')
  @dataclasses.dataclass(frozen=True)
  class Late:
    size: int = 4

  assert resolve('loadtest_late') == Late(4)


@pytest.mark.parametrize(
  'text, said',
  [
    (
      'loadtest_optimizer.learning_rat = 1',
      (
        "x.gin:1: 'loadtest_optimizer' has no parameter 'learning_rat'; did you mean "
        "'learning_rate'?"
      ),
    ),
    ('loadtest_optimiser.learning_rate = 1', "did you mean 'loadtest_optimizer.learning_rate'?"),
    ('# c\nloadtest_optimiser:\n  zzz = 1', "x.gin:3: no configurable 'loadtest_optimiser'"),
    (
      'LR = 1\nLRR = 9\nloadtest_optimizer.learning_rate = %LR',
      "x.gin:2: macro 'LRR' is defined but never used; did you mean 'LR'?",
    ),
    (
      'betas = 9',
      "did you mean 'loadtest_optimizer.betas'?",
    ),  # no other configurable, whichever modules are imported, has such a field
    (
      'LR = 1\nloadtest_optimizer.learning_rate = %LRR',
      "macro '%LRR' is never defined; did you mean 'LR'?",
    ),
    ('A = %B\nB = %A\nloadtest_optimizer.learning_rate = %A', "macro 'A' is defined by itself"),
    (
      'loadtest_optimizer.learning_rate = %gin.REQUIRED',
      "'loadtest_optimizer.learning_rate' is required but has no value",
    ),
    ('LR = %gin.REQUIRED\nloadtest_optimizer.learning_rate = %LR', 'set it with --gin.LR=...'),
    ('REQUIRED = 1', "gin's own"),
    ('train/loadtest_optimizer.steps = 1', "'train/loadtest_optimizer.steps' has a scope"),
    ('train/LR = 1', 'has a scope'),
    ('loadtest_optimizer.name = @adam()', "'@adam' is a reference"),
    (
      'loadtest_optimizer.steps = 1\n\nloadtest_optimizer.steps = 2',
      "x.gin:3: 'loadtest_optimizer.steps' is bound twice in this file, first in line 1",
    ),
    (
      'loadtest_optimizer.steps = 1\nloadtest_optimizer.name = adam',
      "x.gin:2: adam is not a literal; a string needs quotes: loadtest_optimizer.name = 'adam'",
    ),
    ('loadtest_optimizer.betas = (1,\n', 'look for an unclosed bracket'),
    ('\nloadtest_optimizer.steps 3\n', 'x.gin:2: '),
    ('\nloadtest_optimizer.steps = 3 4\n', 'x.gin:2: '),
    ('loadtest_data.mix = {[1]: 2}', 'x.gin: a value is not a literal'),
    ('from __gin__ import dynamic_registration', 'dynamic registration is not available'),
    ("include 'configs/absent.gin'", 'included from'),
    ("include 'configs/x.gin'", 'includes it again'),
  ],
)
def test_mistakes_name_their_place_and_fix(root, text, said):
  message = error([write(root, 'x.gin', text)], root=root)
  assert said in message, message


def test_all_mistakes_are_listed_together(root):
  message = error(
    [
      write(root, 'x.gin', 'UNUSED = 1\nloadtest_optimizer.stepz = 1\nloadtest_data.path = %NONE\n')
    ],
    root=root,
  )
  assert len(message.split('\n')) == 3


def test_missing_file_names_search_path_and_nearest(root):
  write(root, 'demo.gin', '')
  message = error(['configs/dmeo.gin'], root=root)
  assert str(root) in message and "did you mean 'configs/demo.gin'?" in message
  assert "did you mean 'configs/demo.gin'?" in error(['demo.gin'], root=root)
  assert 'did you mean' not in error(['zzzzzzzzzz.gin'], root=root)


def test_command_line_bindings():
  assert 'without leading dashes' in error(bindings=['--loadtest_optimizer.steps=3'])
  assert 'NAME=value' in error(bindings=['loadtest_optimizer.steps 3'])
  assert "needs quotes: loadtest_optimizer.name = 'adam'" in error(
    bindings=['loadtest_optimizer.name=adam']
  )
  assert "did you mean 'steps'?" in error(bindings=['loadtest_optimizer.stepz=3'])
  assert 'more than one' in error(
    bindings=['loadtest_optimizer.steps=3\nloadtest_optimizer.name="sgd"']
  )
  assert (
    "'loadtest_optimizer.steps' is bound before, by binding 'loadtest_optimizer.steps=3'; keep one"
    in error(bindings=['loadtest_optimizer.steps=3', 'loadtest_optimizer.steps=4'])
  )


def test_a_macro_of_the_command_line_must_reach_something(root):
  base = write(root, 'base.gin', 'STEPS = 5\nloadtest_optimizer.steps = %STEPS\n')
  over = write(root, 'over.gin', 'loadtest_optimizer.steps = 6\n')
  load([base, over], [], search_paths=[str(root)])
  assert "macro 'STEPS' has no effect" in error([base, over], ['STEPS=9'], root=root)
  assert 'never used' in error([base], ['STEPPS=9'], root=root)


@pytest.mark.parametrize(
  'binding, said',
  [
    (
      'loadtest_optimizer.learning_rate = True',
      'loadtest_optimizer.learning_rate expects float, got True (bool)',
    ),
    ('loadtest_optimizer.learning_rate = 1e999', 'expects float, got inf'),
    ('loadtest_optimizer.steps = 3.0', 'loadtest_optimizer.steps expects int, got 3.0 (float)'),
    ('loadtest_optimizer.steps = True', 'expects int, got True (bool)'),
    ('loadtest_optimizer.steps = 0', 'loadtest_optimizer: steps is at least 1, got 0'),
    ('loadtest_optimizer.name = "adamw"', "got 'adamw'"),
    ('loadtest_optimizer.betas = (0.9,)', 'expects tuple[float, float], got (0.9,) (tuple)'),
    ('loadtest_optimizer.clip = "1"', "expects float | None, got '1' (str)"),
  ],
)
def test_types_are_checked_against_annotations(binding, said):
  load([], [binding], search_paths=[])
  with pytest.raises(LoadError) as caught:
    resolve('loadtest_optimizer')
  assert said in str(caught.value)


def test_conversions():
  load(
    [],
    [
      'loadtest_optimizer.clip = 1',
      'loadtest_optimizer.betas = [0, 1]',
      'loadtest_data.path = "p"',
      'nested.loadtest_data.size = 2',
    ],
    search_paths=[],
  )
  optimizer = resolve('loadtest_optimizer')
  assert (type(optimizer.clip), optimizer.betas, type(optimizer.betas[0])) == (
    float,
    (0.0, 1.0),
    float,
  )
  assert type(resolve('nested.loadtest_data').size) is int


def test_resolve_names_what_is_missing():
  load([], [], search_paths=[])
  with pytest.raises(LoadError, match=r'loadtest_data\.path has no value and no default'):
    resolve('loadtest_data')
  with pytest.raises(LoadError, match="did you mean 'loadtest_optimizer'"):
    resolve('loadtest_optimiser')


def test_registration_errors():
  with pytest.raises(TypeError, match='frozen=True'):
    configurable('loadtest_bad')(dataclasses.dataclass(type('Bad', (), {})))
  with pytest.raises(TypeError, match='cannot be checked'):
    configurable('loadtest_bad')(dataclasses.make_dataclass('Bad', [('x', object)], frozen=True))
  with pytest.raises(ValueError, match='is already'):
    configurable('loadtest_optimizer')(
      dataclasses.make_dataclass('Other', [('x', int)], frozen=True)
    )
  assert configurable('loadtest_optimizer')(Optimizer) is Optimizer


def test_parse_binding_accepts_literals_and_macros():
  for text in ('a.b=1', 'a.b = %LR', "a.b={'x': [1]}", 'LR=None'):
    assert parse_binding(text) is None  # refused ones raise
