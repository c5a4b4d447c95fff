"""The refusal of bindings without effect: one check for every command that reads gin.

What a person binds on the command line must be read by this command under the resolved
configuration, whatever its value. A gin file may be shared between commands: what it binds for
another command is passed over, and so is a value that is the default anyway. A binding of a file
that no command would read, since a setting beside it switches it off, is refused like one of the
command line.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aevo_jax.bindings.readers import OVERRIDES, READERS, readers, row
from aevo_jax.config.configurables import Bound, LoadError, conditions, default, resolve
from aevo_jax.config.constraints import Clause, ReadWhen
from aevo_jax.config.parameter import SearchSpaceError, some_values
from aevo_jax.config.search_space import SearchSpace

_SHOWN = 3  # bindings of a file that is not for this command


class Reading:
  """What a command reads, under the loaded configuration and its flags.

  Args:
    command: a key of `readers.READERS`.
    flags: flag -> value, without dashes.
    known: selector -> value of settings that gin does not hold, such as those of a checkpoint.
    defaults: the files that the command loads before a person's.
  """

  def __init__(
    self,
    command: str,
    flags: Mapping[str, Any],
    known: Mapping[str, Any],
    defaults: Sequence[str] = (),
  ):
    self._command = command
    self._flags = flags
    self._known = known
    self._defaults = defaults

  def value_of(self, selector: str) -> Any:
    """Returns the value of a setting, or of a flag with its dashes.

    Raises:
      LoadError: its section cannot be resolved.
    """
    if selector.startswith('--'):
      return self._flags.get(selector.removeprefix('--'))
    if selector in self._known:
      return self._known[selector]
    instead = self.flag_instead(selector)
    if instead:
      return self._flags[instead.removeprefix('--')]
    name, _, parameter = selector.partition('.')
    return getattr(resolve(name), parameter)

  def flag_instead(self, selector: str) -> str:
    """Returns the flag that is given in place of a setting; '' if there is none."""
    flag = OVERRIDES.get(self._command, {}).get(selector, '')
    if flag and self._flags.get(flag.removeprefix('--')) is not None:
      return flag
    return ''

  def why_unread(self, binding: Bound) -> str:
    """Words why a binding has no effect, and the fix; '' where it has one."""
    selector = binding.selector
    of_command = row(self._command, binding.name, binding.parameter)
    if of_command is None:
      return '' if binding.given else self._of_other_commands(binding)
    flag = self.flag_instead(selector)
    if binding.given and (flag or self._is_harmless(binding)):
      return ''
    for when in of_command:
      is_of_flags = all(clause.selector.startswith('--') for clause in when.clauses)
      if not (binding.given and is_of_flags) and self._unmet(when):
        of = 'it' if selector in READERS[self._command] else binding.name
        return f'{selector} is bound, and nothing reads {of} {self._reason(when)}'
    if flag:
      return f'{selector} is bound, and {flag} takes its place; keep one'
    for condition in conditions(binding.name, binding.parameter):
      if self._unmet(condition.when):
        of = 'it' if condition.of == selector else condition.of
        return f'{selector} is bound, and nothing reads {of} {self._reason(condition.when)}'
    return ''

  def _unmet(self, when: ReadWhen) -> bool:
    try:
      return when.unmet(self.value_of) and not self._is_searched(when)
    except (LoadError, SearchSpaceError):
      return False  # the command itself will say what is wrong with that section

  def _is_searched(self, when: ReadWhen) -> bool:
    """Whether an explorer of a campaign may bind what fulfils one of the clauses."""
    if self._command != 'campaign':
      return False
    offered = SearchSpace.from_literals(resolve('search_space').axes).parameters
    for clause in when.clauses:
      for parameter in offered:
        if parameter.selector != clause.selector:
          continue
        if any(map(clause.holds, some_values(parameter, clause.values))):
          return True
    return False

  def _reason(self, when: ReadWhen) -> str:
    return when.why_unread(self.value_of, self._name_of, self._fix)

  def _name_of(self, selector: str) -> str:
    return self.flag_instead(selector) or selector

  def _fix(self, clause: Clause) -> str:
    """Returns what meets a clause here; '' for what neither gin nor a flag can change."""
    if clause.selector in self._known:
      return ''
    flag = self.flag_instead(clause.selector)
    return f'leave out {flag}' if flag else clause.fix()

  def _is_harmless(self, binding: Bound) -> bool:
    """Whether a file binds what holds without it."""
    try:
      value = getattr(resolve(binding.name), binding.parameter)
    except LoadError:
      return False
    return binding.repeats in self._defaults or value == default(binding.name, binding.parameter)

  def _of_other_commands(self, binding: Bound) -> str:
    """Words that this command reads nothing of the kind, and which commands do."""
    command = self._command
    if command in readers(binding.name):
      what = f'aevo {command} does not read it'
    else:
      what = f'aevo {command} reads nothing of {binding.name}'
    others = readers(binding.name, binding.parameter)
    hint = 'no command does, it is filled in when a campaign starts'
    if others:
      hint = f'read by {", ".join(f"aevo {name}" for name in others)}'
    return f'{binding.selector} is bound, and {what}; leave it out ({hint})'


def refuse_unread(bound: Sequence[Bound], reading: Reading, command: str) -> None:
  """Refuses bindings that have no effect.

  Args:
    bound: what a person bound in files and on the command line.
    reading: of the command.
    command: its name, for the message.

  Raises:
    LoadError: naming every such binding with its place, and the fix.
  """
  problems = []
  read: list[Bound] = []
  for binding in bound:
    if not binding.name:
      continue
    problem = reading.why_unread(binding)
    if problem:
      place = f'{binding.where}: ' if binding.given else ''
      problems.append(f'{place}{problem}')
    elif row(command, binding.name, binding.parameter) is not None:
      read.append(binding)
  problems += _useless_files(bound, read, command)
  problems += _useless_macros(bound, read)
  if problems:
    raise LoadError('\n'.join(problems))


def _useless_files(bound: Sequence[Bound], read: Sequence[Bound], command: str) -> list[str]:
  """Lists the files of which this command reads nothing at all."""
  of_file: dict[str, list[Bound]] = {}
  for binding in bound:
    if binding.given and binding.name:
      of_file.setdefault(binding.given, []).append(binding)
  problems = []
  for path, bindings in of_file.items():
    is_read = any(binding.given == path for binding in read)
    # A file whose every binding is overridden, or that is included by a later one, is not here.
    if is_read or any(row(command, b.name, b.parameter) is not None for b in bindings):
      continue
    shown = [binding.selector for binding in bindings[:_SHOWN]]
    if len(bindings) > _SHOWN:
      shown.append('...')
    problems.append(f'{path}: aevo {command} reads none of its bindings ({", ".join(shown)})')
  return problems


def _useless_macros(bound: Sequence[Bound], read: Sequence[Bound]) -> list[str]:
  """Lists the macros of the command line that reach no binding that is read."""
  macros = {binding.parameter: binding.macros for binding in bound if not binding.name}
  reached: set[str] = set()
  frontier = set().union(*[binding.macros for binding in read])
  while frontier:
    reached |= frontier
    frontier = set().union(*[macros.get(name, ()) for name in frontier]) - reached
  problems = []
  for binding in bound:
    if not binding.name and not binding.given and binding.parameter not in reached:
      problems.append(f'macro {binding.parameter} has no effect: no binding that is read uses it')
  return problems
