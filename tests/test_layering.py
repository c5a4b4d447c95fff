"""Imports point one way. This test reads them and compares them with a table.

The order is: config, ledger, stats | sharding, models, tasks, checkpoint | data, generation |
training, substrate | evaluation, meta_agent | campaign | report. A row lists every package of ours
that a package may import, so that a new arrow is a decision someone makes here and not an accident.
What the table protects:

- `config` and `ledger` import nothing of ours: what people wrote and what happened can be read
  without the code that acted on it.
- `evaluation` imports neither `training` nor `campaign` nor `meta_agent`: it scores from weights
  alone.
- `meta_agent` sees evidence, never the machinery: not `campaign`, not `training`, not `substrate`.
  `campaign` calls it.
- `report` reads the ledger and the verdicts; nothing but `export` and launch/ imports `report`.
- launch/ imports everything and nothing imports launch/.

Imports inside functions count, and so do those under TYPE_CHECKING: a lazy import is still an
arrow.
"""

import ast
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

_BASE = {'config', 'sharding', 'faults'}
_MODEL_SIDE = _BASE | {'models', 'tasks', 'checkpoint', 'data', 'generation'}

ALLOWED: dict[str, set[str]] = {
  # top-level modules
  'layout': set(),
  'cli': {'config', 'layout'},
  'command': {
    'bindings',
    'config',
    'faults',
    'layout',
    'paths',
    'sharding',
  },  # the shell around a launch command
  'faults': set(),  # the operating system's errors in words; standard library only
  'file_kinds': set(),  # files of another kind than is read; standard library only
  'provenance': {'layout'},  # which code ran; standard library and git
  'paths': {'faults'},  # paths that people name; standard library only
  'runtime': set(),  # threads and parent of a child process; standard library only
  'strict_json': set(),  # JSON without guessing; standard library only
  # statements and history
  'config': set(),
  'ledger': set(),
  # statistics over numpy and scipy
  'stats': set(),
  # mathematics and bytes
  'sharding': {'config'},
  'models': _BASE | {'checkpoint'},  # weights are read in any form, Orbax's too
  'tasks': {'config', 'file_kinds', 'strict_json'},
  'checkpoint': _BASE,
  # what flows into and out of a model; generation reads the tokenizer and chat format of data
  'data': _BASE | {'tasks'},
  'generation': _BASE | {'models', 'checkpoint', 'data'},
  # a trial's work; training samples from the policy, hence generation
  'training': _MODEL_SIDE,
  # what a compiler makes of a trial's step for devices that need not be there, and its time
  'analysis': _BASE | {'models', 'training', 'layout', 'runtime'},
  # a substrate is built from a checkpoint in a model's own layout, with its chat format
  'substrate': {'config', 'ledger', 'checkpoint', 'layout', 'models', 'data'},
  # trusted scoring and the decisions over it
  'evaluation': _MODEL_SIDE | {'ledger', 'stats', 'substrate', 'layout', 'runtime'},
  'meta_agent': {'config', 'file_kinds', 'ledger', 'stats', 'strict_json'},
  # the controller knows them all, and the studies and reports sit on top
  'campaign': _MODEL_SIDE
  | {'ledger', 'stats', 'training', 'substrate', 'evaluation', 'meta_agent', 'layout', 'runtime'},
  'studies': _MODEL_SIDE
  | {'ledger', 'stats', 'training', 'substrate', 'evaluation', 'meta_agent', 'campaign', 'layout'},
  # whole campaigns without training, through the controller's own decisions
  'simulation': {'config', 'stats', 'meta_agent', 'campaign'},
  # every configurable by name, for the table of who reads what
  'bindings': {'config', 'sharding', 'models', 'training', 'analysis', 'campaign', 'simulation'},
  'report': {
    'config',
    'ledger',
    'stats',
    'tasks',
    'checkpoint',
    'models',  # the head of a model card
    'substrate',
    'evaluation',
    'meta_agent',
    'campaign',
    'layout',
  },
  # any result of the others as a directory for people
  'export': _MODEL_SIDE
  | {'training', 'substrate', 'evaluation', 'campaign', 'report', 'layout', 'provenance'},
}

# Folders below one package that import each other, without a circle of modules. A new pair is a
# decision; a pair that is gone leaves the table.
BOTH_WAYS: dict[tuple[str, str], str] = {
  ('evaluation', 'evaluation/servers'): "served scoring speaks the servers' JSON protocol",
  ('meta_agent', 'meta_agent/agents'): 'the registry lists the agents, which read evidence',
  ('meta_agent', 'meta_agent/llm'): 'the registry lists the agent, which reads evidence',
  ('models', 'models/hf'): 'lora and weights need stored names, which need the parameters',
  ('models', 'models/layers'): 'the decoder is made of layers, which read ModelConfig and remat',
  ('analysis', 'analysis/diagnosis'): 'a compiled step has its findings, which read programs',
  ('tasks', 'tasks/families'): 'the mixture lists the families, which make items',
  ('training', 'training/recipe'): 'a recipe holds every section; model set-up reads the recipe',
  ('training', 'training/rl'): "post_train runs both methods, which share the trainer's parts",
  ('training/recipe', 'training/rl'): "rl's options are a section of the recipe",
}


def imported(source: str, module: str, is_package: bool) -> set[str]:
  """Absolute dotted names that `source`, the text of `module`, imports; relative imports are made
  absolute.

  `from aevo_jax import x` yields `aevo_jax.x`. A literal `importlib.import_module('x')` counts as
  well.
  """
  names = set()
  package = module.split('.') if is_package else module.split('.')[:-1]
  for node in ast.walk(ast.parse(source, module)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      base = package[: len(package) - node.level + 1] if node.level else []
      base = '.'.join([*base, *([node.module] if node.module else [])])
      names |= {f'{base}.{alias.name}' for alias in node.names}
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
      called = (
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')
      )
      if called in ('import_module', '__import__') and isinstance(node.args[0].value, str):
        names.add(node.args[0].value)
  return names


def arrows(root: pathlib.Path) -> list[tuple[str, str, str]]:
  """(module, part it belongs to, name of ours it imports) for every import inside aevo_jax/."""
  found = []
  for path in sorted((root / 'aevo_jax').rglob('*.py')):
    relative = path.relative_to(root).with_suffix('')
    is_package = relative.name == '__init__'
    parts = relative.parts[:-1] if is_package else relative.parts
    module = '.'.join(parts)
    for name in sorted(imported(path.read_text(encoding='utf-8'), module, is_package)):
      if name.split('.')[0] in ('aevo_jax', 'launch'):
        found.append((module, parts[1] if len(parts) > 1 else '', name))
  return found


def violations(root: pathlib.Path) -> list[str]:
  said = []
  for module, part, name in arrows(root):
    target = name.split('.')[1] if '.' in name else ''
    if name.split('.')[0] == 'launch' or target in ('launch', '_launch'):
      said.append(f'{module} imports {name}: nothing may import launch/')
    elif target in ('', '__version__') or target == part:
      continue
    elif part == '':
      said.append(f'{module} imports {name}: the package itself imports nothing of ours')
    elif part not in ALLOWED:
      said.append(f'{module}: aevo_jax/{part} has no row in ALLOWED; add one and say why')
    elif target not in ALLOWED[part]:
      said.append(
        f'{module} imports {name}: {part} may import '
        f'{", ".join(sorted(ALLOWED[part])) or "nothing of ours"}'
      )
  return said


def module_graph(root: pathlib.Path) -> dict[str, set[str]]:
  """{module: the modules of ours that it imports}, wherever in its file."""
  modules = {module_of(path, root) for path in (root / 'aevo_jax').rglob('*.py')}
  graph = {module: set() for module in modules}
  for module, _, name in arrows(root):
    while name and name not in modules:
      name = name.rpartition('.')[0]
    if name and name != module:
      graph[module].add(name)
  return graph


def module_of(path: pathlib.Path, root: pathlib.Path) -> str:
  """The dotted name of a file; a package's is that of its `__init__`."""
  parts = path.relative_to(root).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def folders_both_ways(root: pathlib.Path) -> set[tuple[str, str]]:
  """Pairs of folders of aevo_jax whose files import each other."""
  pairs = set()
  for module, imports in module_graph(root).items():
    pairs |= {(folder_of(module, root), folder_of(name, root)) for name in imports}
  return {(one, other) for one, other in pairs if one < other and (other, one) in pairs}


def folder_of(module: str, root: pathlib.Path) -> str:
  """The folder of a module's file, below aevo_jax."""
  path = pathlib.Path(*module.split('.'))
  folder = path if (root / path).is_dir() else path.parent
  return '/'.join(folder.parts[1:])


def test_no_module_takes_part_in_an_import_circle():
  """Imports inside functions and under TYPE_CHECKING count."""
  order = graphlib.TopologicalSorter(module_graph(ROOT)).static_order()  # CycleError names it
  assert 'aevo_jax.cli' in set(order)


def test_folders_that_import_each_other_are_listed():
  assert folders_both_ways(ROOT) == set(BOTH_WAYS)


def test_a_circle_is_seen(tmp_path):
  for file, source in {
    'a/__init__.py': '',
    'a/x.py': 'from aevo_jax.b import y',
    'b/__init__.py': '',
    'b/y.py': 'def f():\n  from aevo_jax.a.x import g',
  }.items():
    path = tmp_path / 'aevo_jax' / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
  with pytest.raises(graphlib.CycleError, match=r'a\.x'):
    graphlib.TopologicalSorter(module_graph(tmp_path)).prepare()
  assert folders_both_ways(tmp_path) == {('a', 'b')}


def test_imports_point_one_way():
  assert violations(ROOT) == []


def test_every_package_has_a_row():
  parts = {path.stem for path in (ROOT / 'aevo_jax').glob('*.py')} | {
    path.parent.name for path in (ROOT / 'aevo_jax').glob('*/*.py')
  }
  assert parts - {'__init__', '_launch'} <= set(ALLOWED)


def test_the_table_has_no_cycle():
  """Removing what imports nothing that is left must empty the table."""
  left = {part: set(allowed) for part, allowed in ALLOWED.items()}
  while left:
    free = [part for part, allowed in left.items() if not allowed & set(left)]
    assert free, f'cycle among {sorted(left)}'
    for part in free:
      del left[part]


def test_tests_and_benchmarks_do_not_import_launch():
  for folder in ('tests', 'benchmarks'):
    for path in (ROOT / folder).rglob('*.py'):
      assert not [
        name
        for name in imported(path.read_text(), path.stem, False)
        if name.split('.')[0] == 'launch'
      ], path


@pytest.mark.parametrize(
  ('file', 'source', 'caught'),
  [
    ('ledger/x.py', 'import aevo_jax.config.statements', True),
    ('ledger/x.py', 'def f():\n    from aevo_jax import config', True),
    ('ledger/x.py', 'from ..config import statements', True),
    ('ledger/x.py', 'from .append import Ledger', False),
    ('ledger/__init__.py', 'from .append import Ledger', False),
    ('ledger/__init__.py', 'from ..config import loading', True),
    ('meta_agent/x.py', 'from aevo_jax.campaign import worker', True),
    ('campaign/executors/x.py', 'from ...meta_agent import policy', False),
    ('campaign/x.py', 'import importlib\nimportlib.import_module("launch.train")', True),
    ('campaign/x.py', 'from aevo_jax._launch import train', True),
    ('campaign/x.py', 'import launcher', False),
    ('surprise/x.py', 'import aevo_jax.config', True),
    ('__init__.py', 'from aevo_jax import config', True),
  ],
)
def test_the_reader_sees_every_spelling(tmp_path, file, source, caught):
  path = tmp_path / 'aevo_jax' / file
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(source)
  assert bool(violations(tmp_path)) is caught
