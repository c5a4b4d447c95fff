"""The gin flags that every launch application shares.

    --gin_file=configs/campaigns/quickstart.gin                      repeatable, in order
    --gin_bindings='optimizer.learning_rate = 1e-3'            repeatable
    --gin.optimizer.learning_rate=1e-3                         T5X's spelling of the same
    --gin.optimizer.schedule=cosine                            a bare word is a string

absl knows the first two. `parse` rewrites the others into the second before absl sees the command
line, so an application is `define()` at import and `app.run(main, flags_parser=parse)`.

A gin file holds literals, so a string in it has quotes. On the command line, where a shell takes
quotes away, a bare word is a string; a field that is no string refuses it by its type.
"""

import math
import re
import sys
from collections.abc import Mapping, Sequence

from absl import app, flags

from aevo_jax.config.configurables import Bound
from aevo_jax.config.loading import LoadError, check_readable, load, parse_binding

NAMES = ('gin_file', 'gin_bindings')
_LITERAL_WORDS = frozenset({'True', 'False', 'None'})
# Words, paths, addresses and patterns of layers; no blank, and nothing that gin reads otherwise.
_BARE_WORD = re.compile(r'[A-Za-z_./~][\w./~:+*-]*')


class GinFlagError(flags.Error):
  """A `--gin.NAME=value` that cannot be read."""


def define(flag_values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines --gin_file and --gin_bindings; a second call is harmless."""
  if 'gin_file' in flag_values:
    return
  flags.DEFINE_multi_string(
    'gin_file',
    [],
    'Gin file, found in the working directory or among those of the project. Repeatable: later '
    'files override earlier ones.',
    flag_values=flag_values,
  )
  flags.DEFINE_multi_string(
    'gin_bindings',
    [],
    "Gin statement such as 'optimizer.learning_rate = 1e-3'; overrides the files. Repeatable. "
    'Also spelled --gin.optimizer.learning_rate=1e-3. A bare word is a string: '
    '--gin.optimizer.schedule=cosine.',
    flag_values=flag_values,
  )


def rewrite_argv(argv: Sequence[str]) -> list[str]:
  """Turns each `--gin.NAME=value` into `--gin_bindings=NAME=value`.

  Args:
    argv: program name and arguments; what follows a lone `--` stays as it is.

  Returns:
    The arguments as absl reads them.

  Raises:
    GinFlagError: no '=', no NAME, or a value that is neither a literal nor a bare word.
  """
  rewritten = list(argv[:1])
  arguments = list(argv[1:])
  end = len(arguments)
  if '--' in arguments:
    end = arguments.index('--')
  for argument in arguments[:end]:
    text = argument.lstrip('-')
    dashes = len(argument) - len(text)
    if dashes in (1, 2) and text.startswith('gin.'):
      argument = f'--gin_bindings={_binding(argument, text)}'
    rewritten.append(argument)
  return rewritten + arguments[end:]


def _binding(argument: str, text: str) -> str:
  """Reads NAME=value from a flag without its dashes."""
  name, equals, value = text.removeprefix('gin.').partition('=')
  if not equals or not name:
    raise GinFlagError(f'{argument}: expected --gin.NAME=value, in one argument')
  binding = with_quotes(f'{name}={value}')
  try:
    parse_binding(binding)
  except LoadError as error:
    hint = ''
    if value[:1] not in ('"', "'") and ' ' in value.strip():
      hint = f'; a string with blanks needs quotes, in a shell twice: --gin.{name}="\'{value}\'"'
    raise GinFlagError(f'{argument}: {error}{hint}') from error
  return binding


def with_quotes(binding: str) -> str:
  """Puts quotes around a value that is a bare word, as the command line may have it.

  Args:
    binding: one 'NAME = value' statement.

  Returns:
    The statement; as it was where its value is a literal, a macro or anything else.
  """
  name, equals, value = binding.partition('=')
  word = value.strip()
  if not equals or word in _LITERAL_WORDS or not _BARE_WORD.fullmatch(word):
    return binding
  if _is_number(word):
    return binding
  return f"{name}= '{word}'"


def _is_number(word: str) -> bool:
  """Whether Python reads the word as a finite number, such as '.5'."""
  try:
    return math.isfinite(float(word))
  except ValueError:
    return False


def parse(argv: Sequence[str]) -> list[str]:
  """Parses a command line for `app.run(main, flags_parser=parse)`; an error ends the program.

  Args:
    argv: program name and arguments, with flags such as --gin.NAME=value.

  Returns:
    The arguments that are no flags, as absl gives them.
  """
  try:
    rewritten = rewrite_argv(argv)
  except GinFlagError as error:
    sys.exit(f'FATAL Flags parsing error: {error}')
  return app.parse_flags_with_usage(rewritten)


def load_from_flags(
  search_paths: Sequence[str],
  flag_values: flags.FlagValues = flags.FLAGS,
  first: Sequence[str] = (),
) -> tuple[Bound, ...]:
  """Loads what the gin flags name; a mistake ends the program with its message, no traceback.

  Args:
    search_paths: directories, as for `loading.load`.
    flag_values: parsed flags, with those of `define`.
    first: gin files that are loaded before those of --gin_file.

  Returns:
    What is bound, as `loading.load`.
  """
  try:
    return load([*first, *flag_values.gin_file], bindings(flag_values), search_paths=search_paths)
  except LoadError as error:
    sys.exit(f'configuration error: {error}')


def bindings(flag_values: flags.FlagValues) -> list[str]:
  """Returns the bindings that parsed flags hold, bare words as strings."""
  return [with_quotes(text) for text in flag_values.gin_bindings]


def check_readable_flags(
  search_paths: Sequence[str],
  flag_values: flags.FlagValues,
  known: Mapping[str, Sequence[str]],
) -> None:
  """Checks files, syntax and names before anything heavy registers configurables.

  Args:
    search_paths: directories, as for `loading.load`.
    flag_values: parsed flags, with those of `define`.
    known: name -> parameters of all configurables.

  Raises:
    LoadError: see `loading.check_readable`.
  """
  check_readable(
    flag_values.gin_file, bindings(flag_values), search_paths=search_paths, known=known
  )
