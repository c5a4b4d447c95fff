"""The gin flags that every launch application shares.

    --gin_file=configs/campaigns/quickstart.gin                      repeatable, in order
    --gin_bindings='optimizer.learning_rate = 1e-3'            repeatable
    --gin.optimizer.learning_rate=1e-3                         T5X's spelling of the same

absl knows the first two. `parse` rewrites the third into the second before absl sees the command
line, so an application is `define()` at import and `app.run(main, flags_parser=parse)`.
"""

import sys
from collections.abc import Sequence

from absl import app, flags

from aevo_jax.config.configurables import Bound
from aevo_jax.config.loading import LoadError, load, parse_binding


class GinFlagError(flags.Error):
  """A `--gin.NAME=value` that cannot be read."""


def define(flag_values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines --gin_file and --gin_bindings; a second call is harmless."""
  if 'gin_file' in flag_values:
    return
  flags.DEFINE_multi_string(
    'gin_file',
    [],
    'Gin file, found in the working directory or in the search path of the '
    'project. Repeatable: later files override earlier ones.',
    flag_values=flag_values,
  )
  flags.DEFINE_multi_string(
    'gin_bindings',
    [],
    "Gin statement such as 'optimizer.learning_rate = 1e-3'; overrides the "
    'files. Repeatable. Also spelled --gin.optimizer.learning_rate=1e-3.',
    flag_values=flag_values,
  )


def rewrite_argv(argv: Sequence[str]) -> list[str]:
  """Turns each `--gin.NAME=value` into `--gin_bindings=NAME=value`.

  Args:
    argv: program name and arguments; what follows a lone `--` stays as it is.

  Returns:
    The arguments as absl reads them.

  Raises:
    GinFlagError: no '=', no NAME, or a value that is no literal (for a bare word, with the quotes
      it needs).
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
  binding = f'{name}={value}'
  try:
    parse_binding(binding)
  except LoadError as error:
    hint = ''
    if value.replace('_', 'a').replace('-', 'a').isalnum() and not value[0].isdigit():
      hint = f"""; in a shell: --gin.{name}='"{value}"'"""
    raise GinFlagError(f'{argument}: {error}{hint}') from error
  return binding


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
    return load(
      [*first, *flag_values.gin_file], flag_values.gin_bindings, search_paths=search_paths
    )
  except LoadError as error:
    sys.exit(f'configuration error: {error}')
