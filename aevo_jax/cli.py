"""The console command: `aevo COMMAND [flags]` imports launch/COMMAND.py and calls its `main`.

Each file in launch/ is a complete absl app. This module only finds the right one, so it imports
neither jax nor absl, and `aevo --help` answers at once. The file runs in this process with
`__name__ == '__main__'` and `sys.argv` rewritten; flags, help and exit code are its own. Adding a
command is adding a file.
"""

import ast
import importlib.util
import logging
import os
import pathlib
import sys
from collections.abc import Sequence
from types import ModuleType

from aevo_jax import __version__, layout
from aevo_jax.config.nearest import nearest

_USAGE = 'usage: aevo COMMAND [flags]'


def commands(package: pathlib.Path = layout.PACKAGE) -> dict[str, pathlib.Path]:
  """Finds the commands.

  Args:
    package: the folder `aevo_jax` whose commands they are, see `layout.root_file`.

  Returns:
    Command name -> file in launch/, alphabetical.

  Raises:
    layout.LayoutError: launch/ is missing.
  """
  files = sorted(layout.root_file('launch', package).glob('*.py'))
  return {path.stem: path for path in files if not path.stem.startswith('_')}


def summary(path: pathlib.Path) -> str:
  """Returns the first line of a module's docstring, without running the module."""
  docstring = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'), str(path)))
  return (docstring or '').partition('\n')[0]


def load(path: pathlib.Path) -> ModuleType:
  """Imports a command's file once: what it registers with gin must not be registered again.

  Args:
    path: of a file in launch/.

  Returns:
    The module, of an earlier call where there was one.
  """
  name = f'aevo_jax._launch.{path.stem}'
  module = sys.modules.get(name)
  if module is not None and module.__file__ == str(path):
    return module
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  spec.loader.exec_module(module)
  return module


def _help(available: dict[str, pathlib.Path]) -> str:
  width = max((len(name) for name in available), default=0)
  lines = [_USAGE, '', 'commands:']
  for name, path in available.items():
    lines.append(f'  {name:<{width}}  {summary(path)}')
  lines += ['', 'aevo COMMAND --help lists the flags of one, aevo --version the version.']
  return '\n'.join(lines)


def _unknown(name: str, available: dict[str, pathlib.Path]) -> str:
  """Words an unknown command, with the nearest that exists."""
  problem = 'unknown command'
  if name.startswith('-'):
    problem = 'flags come after the command, here is only'
  hint = f'the commands are {", ".join(available)}'
  match = nearest(name, available)
  if match:
    hint = f'did you mean `aevo {match}`?'
  return f'aevo: {problem} {name!r}; {hint}\n{_USAGE}'


def main(argv: Sequence[str] | None = None, package: pathlib.Path = layout.PACKAGE) -> int:
  """Runs one command.

  Args:
    argv: without the program's name; sys.argv[1:] by default.
    package: see `commands`.

  Returns:
    The exit status: the command's, or 2 for a missing or unknown command. A command that exits by
    itself raises SystemExit.
  """
  if argv is None:
    argv = sys.argv[1:]
  arguments = list(argv)
  try:
    available = commands(package)
  except layout.LayoutError as error:
    print(f'aevo: {error}', file=sys.stderr)
    return 2
  if not arguments:
    print(_help(available), file=sys.stderr)
    return 2
  name, *flags = arguments
  if name in ('-h', '--help', 'help'):
    if name != 'help' or not flags:
      print(_help(available))
      return 0
    name, flags = flags[0], ['--help']
  if name == '--version':
    print(f'aevo-jax {__version__}')
    return 0
  if name not in available:
    print(_unknown(name, available), file=sys.stderr)
    return 2
  # JAX announces at INFO which accelerators it did not find (`aevo doctor` is where that belongs),
  # and Orbax every save and load.
  logging.getLogger('jax._src.xla_bridge').setLevel(logging.WARNING)
  logging.getLogger('absl').addFilter(
    lambda record: record.levelno > logging.INFO or f'{os.sep}orbax{os.sep}' not in record.pathname
  )
  return load(available[name]).main(flags)


if __name__ == '__main__':
  sys.exit(main())
