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

What a person can mistype is answered before the function runs, which is where JAX is imported:
flags, arguments, gin files, paths that must exist and paths that must not. The answer is one
sentence on standard error, and the status is 1.
"""

import itertools
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags, logging

from aevo_jax import faults, layout, paths
from aevo_jax.bindings import names
from aevo_jax.config import flags as gin_flags
from aevo_jax.config import loading
from aevo_jax.config.configurables import Bound, parameters, resolve
from aevo_jax.config.nearest import nearest

HELP = ('--help', '-help', '--helpshort', '--helpfull', '-h', '-?')
# Caps on budgets, for trying a command as a page shows it. A campaign records what it ran with.
CAPS = 'AEVO_CAPS'
# What the help of a flag begins with where its name does not say what it takes: `COLUMN,...: ...`.
_EXAMPLE = re.compile(r'([A-Z]+(,\.\.\.)?): ')
# absl's own flags that every command has: how much is logged, and where.
_ABSL_MODULES = ('absl.logging',)


class Command:
  """One command of `aevo`, its flags and its name.

  Attributes:
    name: how a person types it, for messages.
    flags: the command's flag values; `--gin_file` and `--gin_bindings` are among them.
    line: the command line as it was given, of the latest call.
  """

  def __init__(
    self,
    name: str,
    doc: str | None,
    *,
    takes: tuple[str, ...] = (),
    reads: tuple[str, ...] = (),
    makes: tuple[str, ...] = (),
    fills: tuple[str, ...] = (),
    no_gin: str = '',
  ):
    """Makes a command without flags of its own.

    Args:
      name: the file's name in launch/, without `.py`.
      doc: the module's docstring; `--help` prints it.
      takes: names of its positional arguments, each of which must be given. A last one that ends
        in `...` stands for one or more.
      reads: flags and positional arguments that name what must exist.
      makes: flags that name a directory to be made, which must not exist.
      fills: flags that name a directory to be made, or to be gone on with.
      no_gin: why the command reads no gin. Every gin flag is then refused with this sentence,
        because nothing would read the bindings.
    """
    self.name = name
    self.flags = flags.FlagValues()
    self.line = ''
    self._doc = doc or ''
    self._takes = takes
    self._takes_more = bool(takes) and takes[-1].endswith('...')
    self._reads = reads
    self._makes = makes
    self._fills = fills
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
      status: 0, 1 for a usage error or where no memory is left, or the command's own.
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
        print(f'aevo {self.name}: {error}\nSee: aevo {self.name} --help', file=sys.stderr)
        return 1
      except SystemExit as stop:
        return _exit_status(stop)
      except BrokenPipeError:
        # The reader went away, as `| head` does. Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
      except Exception as error:
        if not faults.is_out_of_memory(error):
          raise
        words = faults.OUT_OF_MEMORY.format(again=faults.AGAIN)
        detail = (str(error) or type(error).__name__).splitlines()[0]
        print(f'{self.name}: {words} ({detail})', file=sys.stderr)
        return 1
      return status or 0

    main.__doc__ = function.__doc__
    return main

  def help(self) -> str:
    """Returns the docstring and the flags, the command's own first."""
    shown = flags.FlagValues()
    for module, module_flags in self.flags.flags_by_module_dict().items():
      for flag in module_flags:
        if self._no_gin and flag.name in gin_flags.NAMES:
          continue  # it would be refused
        shown[flag.name] = flag
        shown.register_flag_by_module(module, flag)
    text = f'{self._doc.rstrip()}\n\nflags:\n{shown.get_help()}'
    if self._no_gin:
      text += f'\n\n{self.name} takes no gin flags: {self._no_gin}.'
    return text

  def load_gin(
    self,
    *first: pathlib.Path,
    mode: str = '',
    known: Mapping[str, Any] | None = None,
    chip: str = '',
  ) -> tuple[Bound, ...]:
    """Loads files and bindings in order; a mistake ends the command with its message.

    A binding that has no effect in this command is a mistake (`bindings.unread`). Where the command
    reads a mesh and `mesh.for_chip` chooses one, its file is loaded behind the others.

    Args:
      *first: gin files that come before those of `--gin_file`.
      mode: the flag by which the command reads other settings, as in `bindings.readers`.
      known: selector -> value of settings that gin does not hold.
      chip: for which a mesh is chosen; '' is that of this process's devices.

    Returns:
      What the person bound, in files and on the command line.
    """
    from aevo_jax.bindings import readers, unread  # noqa: PLC0415  with it
    from aevo_jax.bindings import registered as _registered  # noqa: F401, PLC0415  imports jax

    files = [str(path) for path in first]
    name = f'{self.name} {mode}'.rstrip()
    bound = gin_flags.load_from_flags(layout.search_paths(), self.flags, files)
    all_files = [*files, *self.flags.gin_file]
    if readers.row(name, 'mesh', 'for_chip') is not None:
      bound = self._with_mesh_of_chip(bound, all_files, chip)
    theirs = tuple(binding for binding in bound if binding.given not in files)
    reading = unread.Reading(name, self.flags.flag_values_dict(), known or {}, files)
    try:
      unread.refuse_unread(theirs, reading, name)
    except loading.LoadError as error:
      sys.exit(f'configuration error: {error}')
    lowered = lowered_by_caps(os.environ.get(CAPS, ''))
    if lowered:
      print(f'{CAPS} lowers {", ".join(lowered)}', file=sys.stderr)
      names = [_bound_name(binding) for binding in lowered]
      given = [b for b in gin_flags.bindings(self.flags) if _bound_name(b) not in names]
      bindings = [*given, *lowered]
      loading.load(all_files, bindings, search_paths=layout.search_paths())
    return theirs

  def _with_mesh_of_chip(
    self, bound: tuple[Bound, ...], files: list[str], chip: str
  ) -> tuple[Bound, ...]:
    """Loads again with the mesh file that `mesh.for_chip` chooses, which is added to the files."""
    from aevo_jax.sharding import chips  # noqa: PLC0415  imports jax

    try:
      chosen = chips.chosen_file(chip)
      if not chosen:
        return bound
      table = resolve('mesh').for_chip
      files.append(chosen)
      bound = loading.load(
        files, gin_flags.bindings(self.flags), search_paths=layout.search_paths()
      )
      chips.check_chosen(chosen, table)
    except loading.LoadError as error:
      sys.exit(f'configuration error: {error}')
    return bound

  def _wants_help(self, arguments: list[str]) -> bool:
    """Whether a help flag stands before a lone `--`."""
    end = arguments.index('--') if '--' in arguments else len(arguments)
    return any(argument in HELP for argument in arguments[:end])

  def _parse(self, arguments: list[str]) -> list[str]:
    """Sets the flags and returns the positional arguments; a wrong flag ends the command."""
    self._refuse_no_value(arguments)
    self.flags.unparse_flags()
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # libraries read absl's global flags, and find their defaults
      logging.use_absl_handler()
    try:
      rewritten = gin_flags.rewrite_argv([self.name, *arguments])
      positional = self.flags(rewritten)[1:]
    except flags.UnrecognizedFlagError as error:
      raise app.UsageError(self._unknown_flag(error.flagname)) from error
    except flags.Error as error:
      missing = self._missing_flags()
      if self.flags.is_parsed() and missing:
        positional = [argument for argument in arguments if not argument.startswith('-')]
        raise app.UsageError(self._missing(positional, missing)) from error
      raise app.UsageError(' '.join(str(error).split())) from error
    if not self.flags['verbosity'].present:
      logging.set_verbosity(logging.WARNING)  # Orbax tells at INFO of every file it opens
    if self._no_gin and (self.flags.gin_file or self.flags.gin_bindings):
      raise app.UsageError(f'{self._no_gin}; leave out --gin_file and --gin_bindings')
    if len(positional) < len(self._takes):
      raise app.UsageError(self._missing(positional, []))
    if len(positional) > len(self._takes) and not self._takes_more:
      raise app.UsageError(self._unexpected(positional[len(self._takes) :]))
    self._check_gin()
    self._check_paths(positional)
    return positional

  def _refuse_no_value(self, arguments: list[str]) -> None:
    """Raises UsageError for a flag that names nothing: last, before another flag, or no list."""
    for argument, behind in itertools.pairwise([*arguments, '--']):
      name, equals, value = argument.lstrip('-').partition('=')
      if argument == '--':
        return
      if not argument.startswith('-') or name not in self.flags:
        continue
      flag = self.flags[name]
      if not equals and not behind.startswith('--'):
        value = behind
      may_be_empty = equals and not isinstance(flag.parser, flags.ListParser)
      if value or may_be_empty or flag.boolean:
        continue
      example = _EXAMPLE.match(flag.help or '')
      raise app.UsageError(
        f'--{name} is given no value; write --{name}={example[1] if example else name.upper()}'
      )

  def _unknown_flag(self, name: str) -> str:
    """Words a flag that the command has not; `name` is without dashes."""
    section, dot, _ = name.partition('.')
    if dot and section:
      return f'no flag --{name}; a binding of gin is --gin.{name}=VALUE'
    match = nearest(name, list(self.flags))
    if match is not None:
      return f'no flag --{name}; did you mean --{match}?'
    return f'no flag --{name}'

  def _missing_flags(self) -> list[str]:
    """Lists the flags that the command needs and was not given."""
    missing = []
    for module_flags in self.flags.flags_by_module_dict().values():
      for flag in module_flags:
        if flag.value is None and not self._may_be_none(flag):
          missing.append(flag.name)
    return missing

  def _may_be_none(self, flag: flags.Flag) -> bool:
    """Whether none of a flag's validators refuses that nothing was given."""
    for validator in flag.validators:
      try:
        validator.verify(self.flags)
      except flags.ValidationError:
        return False
    return True

  def _missing(self, positional: list[str], missing_flags: list[str]) -> str:
    """Words everything that is missing in one sentence, with the whole command."""
    names = [*self._takes[len(positional) :], *(f'--{name}' for name in missing_flags)]
    whole = ['aevo', self.name, *self._takes]
    for name in missing_flags:
      whole.append(f'--{name}={name.upper()}')
    verb = 'is'
    if len(names) > 1:
      verb = 'are'
    return f'{" and ".join(names)} {verb} missing; write: {" ".join(whole)}'

  def _unexpected(self, extra: list[str]) -> str:
    """Words positional arguments that nothing takes."""
    name, equals, _ = extra[0].partition('=')
    if equals and (name in self.flags or name.startswith('gin.')):
      return f'unexpected argument {extra[0]!r}; did you mean --{extra[0]}?'
    wanted = 'no arguments'
    if self._takes:
      wanted = ' '.join(self._takes)
    return f'unexpected argument {extra[0]!r}; it takes {wanted}, and flags as --NAME=VALUE'

  def _check_gin(self) -> None:
    """Ends the command where a gin file is missing, or binds what cannot be read or is no name."""
    if not self.flags.gin_file and not self.flags.gin_bindings:
      return
    try:
      gin_flags.check_readable_flags(layout.search_paths(), self.flags, names.written())
    except loading.LoadError as error:
      sys.exit(f'configuration error: {error}')

  def _check_paths(self, positional: list[str]) -> None:
    """Raises UsageError for a path that is missing, taken, or cannot be made."""
    given: dict[str, list[str]] = {}
    for place, argument in enumerate(positional, 1):
      given.setdefault(self._takes[min(place, len(self._takes)) - 1], []).append(argument)
    for name in self._reads:
      self._refuse(name, given, paths.missing)
    for name in self._makes:
      self._refuse(name, given, paths.not_new)
    for name in self._fills:
      self._refuse(name, given, paths.not_fillable)

  def _refuse(
    self, name: str, given: dict[str, list[str]], problem: Callable[[pathlib.Path], str | None]
  ) -> None:
    """Raises UsageError if there is a problem with the path of a flag or argument."""
    shown = ''
    if name in given:
      values = given[name]
    else:
      values = [self.flags[name].value]
      shown = f'--{name}='
    for value in filter(None, values):
      found = problem(pathlib.Path(value))
      if found is not None:
        raise app.UsageError(f'{shown}{value}: {found}')


def _bound_name(binding: str) -> str:
  return binding.partition('=')[0].strip()


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
  if lowered and 'reversal' in parameters():
    # So small a campaign is no campaign whose verdicts anybody will read.
    lowered.append('reversal.blind = True')
  return lowered


def _exit_status(stop: SystemExit) -> int:
  """Returns the status of `sys.exit(code)`, and prints a message as Python does."""
  if stop.code is None:
    return 0
  if isinstance(stop.code, int):
    return stop.code
  print(stop.code, file=sys.stderr)
  return 1
