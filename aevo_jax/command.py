"""The shell around a launch command: flags, help, usage errors and exit status.

A file in launch/ is one command:

    COMMAND = command.Command('report', __doc__)
    _OUT = flags.DEFINE_string('out', None, 'Directory.', flag_values=COMMAND.flags)

    @COMMAND
    def main(arguments: list[str]) -> None:
      ...

    if __name__ == '__main__':
      sys.exit(main(sys.argv[1:]))

`main(argv)` then parses `argv`, runs the function on what is left, and returns the exit status. It
keeps no state between calls, so tests call it in their own process.
"""

import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags, logging

from aevo_jax import layout
from aevo_jax.config import flags as gin_flags
from aevo_jax.config import loading
from aevo_jax.config.configurables import Bound, parameters, resolve

HELP = ('--help', '-help', '--helpshort', '--helpfull', '-h', '-?')
# Caps on budgets, for trying a command as a page shows it. A campaign records what it ran with.
CAPS = 'AEVO_CAPS'
# absl's own flags that every command has: how much is logged, and where.
_ABSL_MODULES = ('absl.logging',)


class Command:
  """One command of `aevo`, its flags and its name.

  Attributes:
    name: how a person types it, for messages.
    flags: the command's flag values; `--gin_file` and `--gin_bindings` are among them.
    line: the command line as it was given, of the latest call.
  """

  def __init__(self, name: str, doc: str | None, *, no_gin: str = ''):
    """Makes a command without flags of its own.

    Args:
      name: the file's name in launch/, without `.py`.
      doc: the module's docstring; `--help` prints it.
      no_gin: why the command reads no gin. Every gin flag is then refused with this sentence,
        because nothing would read the bindings.
    """
    self.name = name
    self.flags = flags.FlagValues()
    self.line = ''
    self._doc = doc or ''
    self._no_gin = no_gin
    gin_flags.define(self.flags)
    shared = flags.FLAGS.flags_by_module_dict()
    for module in _ABSL_MODULES:
      for flag in shared.get(module, ()):
        self.flags[flag.name] = flag

  def __call__(self, function: Callable[[list[str]], int | None]) -> Callable[[Sequence[str]], int]:
    """Decorates the function of a command.

    Args:
      function: takes the positional arguments. It returns an exit status, None for 0, or raises
        absl's `UsageError` or `SystemExit`.

    Returns:
      `main(argv)`, which takes the command line without the program's name and returns the exit
      status: 0, 1 for a usage error, or the command's own.
    """

    def main(argv: Sequence[str]) -> int:
      arguments = list(argv)
      if self._wants_help(arguments):
        print(self.help())
        return 0
      self.line = ' '.join(['aevo', self.name, *arguments])
      try:
        positional = self._parse(arguments)
        status = function(positional)
      except app.UsageError as error:
        print(f'{self.help()}\n\n{error}', file=sys.stderr)
        return 1
      except SystemExit as stop:
        return _exit_status(stop)
      except BrokenPipeError:
        # The reader went away, as `| head` does. Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
      return status or 0

    main.__doc__ = function.__doc__
    return main

  def help(self) -> str:
    """Returns the docstring and the flags, the command's own first."""
    return f'{self._doc.rstrip()}\n\nflags:\n{self.flags.get_help()}'

  def load_gin(
    self, *first: pathlib.Path, mode: str = '', known: Mapping[str, Any] | None = None
  ) -> tuple[Bound, ...]:
    """Loads files and bindings in order; a mistake ends the command with its message.

    A binding that has no effect in this command is a mistake (`bindings.unread`).

    Args:
      *first: gin files that come before those of `--gin_file`.
      mode: the flag by which the command reads other settings, as in `bindings.readers`.
      known: selector -> value of settings that gin does not hold.

    Returns:
      What the person bound, in files and on the command line.
    """
    from aevo_jax.bindings import registered as _registered  # noqa: F401, PLC0415  imports jax
    from aevo_jax.bindings import unread  # noqa: PLC0415  with it

    files = [str(path) for path in first]
    bound = gin_flags.load_from_flags(layout.search_paths(), self.flags, files)
    theirs = tuple(binding for binding in bound if binding.given not in files)
    name = f'{self.name} {mode}'.rstrip()
    reading = unread.Reading(name, self.flags.flag_values_dict(), known or {}, files)
    try:
      unread.refuse_unread(theirs, reading, name)
    except loading.LoadError as error:
      sys.exit(f'configuration error: {error}')
    lowered = lowered_by_caps(os.environ.get(CAPS, ''))
    if lowered:
      print(f'{CAPS} lowers {", ".join(lowered)}', file=sys.stderr)
      bindings = [*self.flags.gin_bindings, *lowered]
      loading.load([*files, *self.flags.gin_file], bindings, search_paths=layout.search_paths())
    return theirs

  def _wants_help(self, arguments: list[str]) -> bool:
    """Whether a help flag stands before a lone `--`."""
    end = arguments.index('--') if '--' in arguments else len(arguments)
    return any(argument in HELP for argument in arguments[:end])

  def _parse(self, arguments: list[str]) -> list[str]:
    """Sets the flags and returns the positional arguments; a wrong flag ends the command."""
    self.flags.unparse_flags()
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # libraries read absl's global flags, and find their defaults
      logging.use_absl_handler()
    try:
      rewritten = gin_flags.rewrite_argv([self.name, *arguments])
      positional = self.flags(rewritten)[1:]
    except flags.Error as error:
      sys.exit(f'FATAL Flags parsing error: {error}\nPass --help to see the flags.')
    if not self.flags['verbosity'].present:
      logging.set_verbosity(logging.INFO)
    if self._no_gin and (self.flags.gin_file or self.flags.gin_bindings):
      raise app.UsageError(f'{self._no_gin}; leave out --gin_file and --gin_bindings')
    return positional


def lowered_by_caps(caps: str) -> list[str]:
  """Returns the bindings by which an environment variable shrinks what gin has loaded.

  Args:
    caps: bindings of numbers, separated by blanks, such as 'budget.rounds=1 dev_set.items=60'.

  Returns:
    Those whose section this command reads and whose value is above the cap.

  Raises:
    UsageError: a cap that is no SECTION.FIELD=NUMBER, or a section without that field.
  """
  lowered = []
  for binding in caps.split():
    selector, _, text = binding.partition('=')
    section, _, field = selector.partition('.')
    try:
      limit = float(text)
    except ValueError:
      raise app.UsageError(f'{CAPS}: expected SECTION.FIELD=NUMBER, got {binding!r}') from None
    if section not in parameters():
      continue
    if field not in parameters()[section]:
      raise app.UsageError(f'{CAPS}: {section} has no field {field!r}; got {binding!r}')
    if getattr(resolve(section), field) > limit:
      lowered.append(f'{selector} = {text}')
  return lowered


def _exit_status(stop: SystemExit) -> int:
  """Returns the status of `sys.exit(code)`, and prints a message as Python does."""
  if stop.code is None:
    return 0
  if isinstance(stop.code, int):
    return stop.code
  print(stop.code, file=sys.stderr)
  return 1
