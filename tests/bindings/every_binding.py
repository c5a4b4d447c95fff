"""Every binding of every command: values that differ, and the settings under which each is read."""

import typing
from typing import Any

import annotated_types

from aevo_jax.bindings import readers, registered
from aevo_jax.config import configurables
from aevo_jax.config.constraints import Clause, OneOf

SETS = ('dev', 'external', 'final')
# Of texts and tables, which no range describes.
OTHERS: dict[str, list[Any]] = {
  'lora.targets': ['attention'],
  'optimizer.groups': [(('.*', 1.0, 0.5),)],
  'tasks.path': ['tasks.jsonl'],
  'estimate.model': ['model.gin'],
  'mesh.axes': [{'fsdp': 1}],
  'method.learning_rate': [0.01],
  'model.pattern': ['M*-E', 'M*-'],
  **{f'{name}_set.family_weight': [{'unit_conversion': 2.0}] for name in SETS},
  **{f'{name}_set.rare_share': [{'unit_conversion': 0.25}] for name in SETS},
  **{f'{name}_set.answer_shown': [{'unit_conversion': 0.25}] for name in SETS},
  'llm.temperature': [0.5],
  'objective.size': ['standard'],
  'vllm.gap': [0.01],
  'probes.templates': [('Say it again. {prompt}',)],
  'promotion.unprotected': [('unit_conversion',)],
  'search_space.axes': [{}],
  'search_space.from_round': [{'schedule': 2}],
  'vllm.url': ['http://127.0.0.1:8000'],
  'evaluation.arbiter_url': ['http://127.0.0.1:8001'],
}
# Flags on which commands depend, as they are where nobody gives them.
FLAGS = {'--dry_run': False, '--split': 'dev', '--plant': 'none', '--agents': ['statistical']}
REGISTERED = registered.MODULES


def selectors(command: str) -> list[str]:
  """Lists everything that a command reads under some configuration."""
  found = []
  for name, fields in sorted(configurables.parameters().items()):
    for parameter in fields:
      if readers.row(command, name, parameter) is not None:
        found.append(f'{name}.{parameter}')
  return found


def annotation(selector: str) -> Any:
  """Returns the annotation of a field, with its metadata."""
  name, _, parameter = selector.partition('.')
  cls = configurables._CONFIGURABLES[name]
  return typing.get_type_hints(cls, include_extras=True)[parameter]


def metadata(selector: str) -> tuple:
  return getattr(annotation(selector), '__metadata__', ())


def bounds(selector: str) -> tuple[float, float]:
  """Returns the least and the largest legal number, as far as anything is said."""
  low = -1e9
  high = 1e9
  for item in metadata(selector):
    parts = list(item) if isinstance(item, annotated_types.Interval) else [item]
    for part in parts:
      if isinstance(part, (annotated_types.Ge, annotated_types.Gt)):
        low = getattr(part, 'ge', None) if hasattr(part, 'ge') else part.gt
      if isinstance(part, (annotated_types.Le, annotated_types.Lt)):
        high = getattr(part, 'le', None) if hasattr(part, 'le') else part.lt
  return low, high


def others(selector: str, value: Any) -> list[Any]:
  """Returns legal values that differ from one."""
  if selector in OTHERS:
    return OTHERS[selector]
  for item in metadata(selector):
    if isinstance(item, OneOf):
      return [option for option in item.options if option != value]
  if isinstance(value, bool):
    return [not value]
  if isinstance(value, (int, float)):
    low, high = bounds(selector)
    moved = [value * 2, value / 2, value + 1, value - 1, value + 0.25, value * 0.9]
    if isinstance(value, int):
      moved = [value * 2, value // 2, value + 1, value - 1]
    return [v for v in dict.fromkeys(moved) if low < v < high and v != value]
  if isinstance(value, str):
    return [f'{value}other']
  return []


# What flags are given where a setting is read with them alone.
FLAGS = {'--plant': 'reversal', '--compile': 'h200x8'}


def met(clause: Clause) -> Any:
  """Returns a value under which a clause holds."""
  name, _, parameter = clause.selector.partition('.')
  if clause.part:
    return 'M*-E' if clause.selector == 'model.pattern' else clause.part
  if not clause.excluded:
    return clause.values[0]
  if clause.selector in FLAGS:
    return FLAGS[clause.selector]
  default = configurables.default(name, parameter)
  if default not in clause.values:
    return default
  return others(clause.selector, default)[-1]


def context(selector: str) -> dict[str, Any]:
  """Returns the settings under which a field declares that it is read, beside the defaults."""
  name, _, parameter = selector.partition('.')
  needed: dict[str, Any] = {}
  for condition in configurables.conditions(name, parameter):
    clauses = condition.when.clauses
    held = [c for c in clauses if c.holds(needed.get(c.selector, default(c.selector)))]
    if held:
      continue
    needed[clauses[0].selector] = met(clauses[0])
  return needed


def default(selector: str) -> Any:
  name, _, parameter = selector.partition('.')
  return configurables.default(name, parameter)


def is_ours(name: str) -> bool:
  """Whether a configurable is the program's; tests register some of their own."""
  return configurables._CONFIGURABLES[name].__module__.startswith('aevo_jax.')


def all_selectors() -> list[str]:
  """Lists everything that can be bound."""
  found = []
  for name, fields in sorted(configurables.parameters().items()):
    if is_ours(name):
      found += [f'{name}.{parameter}' for parameter in fields]
  return found


def unmet(clause: Clause) -> Any:
  """Returns a value under which a clause does not hold; None where none is known."""
  if clause.part:
    return {'model.pattern': 'E' if clause.part != 'E' else 'M'}.get(clause.selector, ())
  if clause.excluded:
    return clause.values[0]
  if clause.selector.startswith('--'):
    candidates = ['external', 'dev', False]
  else:
    candidates = [default(clause.selector), *others(clause.selector, default(clause.selector))]
  for value in candidates:
    if not clause.holds(value):
      return value
  return None
