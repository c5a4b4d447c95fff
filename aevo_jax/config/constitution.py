"""The constitution: what counts as improvement, and everything else that no agent may change.

`constitution.gin` holds literals only. At the start of a campaign it is read together with the
operator's gin, the arbiter's commitment is filled in, and the result is rendered canonically into
the run directory. From then on only that file counts, and its digest is in the first ledger record.
An agent's text can only bind selectors of the search space, and no section is in it.
"""

import dataclasses
import functools
import hashlib
import pathlib
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from aevo_jax.config.configurables import LoadError, check_type, resolve_all
from aevo_jax.config.inference import WHOLE_TRANSPORTS, Evaluation, Vllm, same_server
from aevo_jax.config.nearest import suggestion
from aevo_jax.config.search_space import SearchSpace
from aevo_jax.config.sections import (
  PROBES,
  Budget,
  Control,
  DevSet,
  ExternalSet,
  FinalSet,
  Holdout,
  KeepOrDiscard,
  LlmRules,
  Objective,
  Probes,
  Promotion,
  Release,
  Reversal,
  SearchSpaceText,
  StartingRecipe,
  Submission,
  Tasks,
)
from aevo_jax.config.statements import Binding, parse_statements, render

MAX_BYTES = 64 * 1024
FINAL_ROUND = -1

# Rendered only where they are not the defaults, so that a constitution that has no use for them
# keeps its digest and holdout.
_OPTIONAL = (
  'tasks',
  'submission',
  'keep_or_discard',
  'probes',
  'evaluation',
  'vllm',
  'starting_recipe',
)


@dataclasses.dataclass(frozen=True)
class Constitution:
  """All sections. Two constitutions with equal `text()` are the same constitution."""

  objective: Objective
  tasks: Tasks
  dev_set: DevSet
  external_set: ExternalSet
  final_set: FinalSet
  holdout: Holdout
  budget: Budget
  promotion: Promotion
  release: Release
  submission: Submission
  keep_or_discard: KeepOrDiscard
  reversal: Reversal
  control: Control
  probes: Probes
  evaluation: Evaluation
  vllm: Vllm
  llm_rules: LlmRules
  starting_recipe: StartingRecipe
  search_space: SearchSpaceText

  def __post_init__(self):
    if self.objective.target == 'proxies' and not self.probes.used():
      raise LoadError(
        "objective.target = 'proxies' needs something beside dev to judge it by; give "
        f'one of {", ".join(f"probes.{name}" for name in PROBES)} some items'
      )
    evaluator_url = self.vllm.url
    arbiter_url = self.evaluation.arbiter_url
    one_is_bound = bool(evaluator_url) != bool(arbiter_url)
    if one_is_bound or (evaluator_url and same_server(evaluator_url, arbiter_url)):
      raise LoadError(
        "vllm.url is the evaluator's server and evaluation.arbiter_url the arbiter's, "
        'which are given different weights at the same time: bind both, to different '
        'servers, or neither, '
        'and each starts its own'
      )
    if self.evaluation.engine != 'vllm' and self.vllm != Vllm():
      raise LoadError(
        "nothing reads vllm.* while evaluation.engine = 'jax'; bind evaluation.engine = "
        "'vllm', or leave vllm.* out"
      )
    if self.evaluation.engine == 'vllm' and self.vllm.carrier not in WHOLE_TRANSPORTS:
      raise LoadError(
        f'vllm.carrier = {self.vllm.carrier!r} cannot carry sealed weights; bind one of '
        f'{", ".join(WHOLE_TRANSPORTS)}'
      )

  def text(self) -> str:
    """Renders the canonical gin text, every field spelled out.

    Returns:
      ASCII text, sorted by selector; of the `_OPTIONAL` sections only those that set something.
    """
    bindings = []
    for name, cls in _SECTIONS.items():
      section = getattr(self, name)
      if name in _OPTIONAL and section == cls():
        continue
      for field in dataclasses.fields(cls):
        bindings.append(Binding(f'{name}.{field.name}', getattr(section, field.name)))
    return render(bindings)

  def digest(self) -> str:
    """Returns the SHA-256 of the canonical text, in hexadecimal."""
    return hashlib.sha256(self.text().encode()).hexdigest()

  def space(self) -> SearchSpace:
    """Returns what agents may bind."""
    return self._space

  @functools.cached_property
  def _space(self) -> SearchSpace:
    return SearchSpace.from_literals(self.search_space.axes)

  def in_round(self, round_: int) -> 'Constitution':
    """Narrows the search space to the axes that are open in a round.

    Args:
      round_: from 1; the final has a negative round and may bind all axes.

    Returns:
      This constitution, or a copy that has fewer axes.
    """
    first = self.search_space.from_round
    axes = {}
    for name, axis in self.search_space.axes.items():
      if round_ < 0 or first.get(name, 1) <= round_:
        axes[name] = axis
    if len(axes) == len(self.search_space.axes):
      return self
    return dataclasses.replace(self, search_space=SearchSpaceText(axes))

  def committed(self, commitment: str) -> 'Constitution':
    """Fills in the arbiter's commitment.

    Args:
      commitment: SHA-256 of its secret.

    Returns:
      A copy that holds it.
    """
    return dataclasses.replace(self, holdout=Holdout(commitment))

  def with_tasks(self, digest: str) -> 'Constitution':
    """Fills in the digest of the user's tasks.

    Args:
      digest: SHA-256 of the tasks at `tasks.path`.

    Returns:
      A copy that holds it.
    """
    return dataclasses.replace(self, tasks=Tasks(self.tasks.path, digest))


# Section name -> its dataclass, in the order of the fields above.
_SECTIONS: dict[str, type] = typing.get_type_hints(Constitution)


def from_gin(**replaced: Any) -> Constitution:
  """Builds the constitution of the loaded gin configuration (see `loading.load`).

  Args:
    **replaced: sections by name, used in place of what was loaded.

  Raises:
    LoadError: a section that cannot be, or sections that do not go together.
    SearchSpaceError: a malformed search space, in whichever round it opens.
  """
  sections = resolve_all(_SECTIONS)
  constitution = Constitution(**(sections | replaced))
  for round_ in (FINAL_ROUND, *range(1, constitution.budget.rounds + 1)):
    constitution.in_round(round_).space()  # a malformed space is an error now, not in that round
  return constitution


def read(path: pathlib.Path) -> Constitution:
  """Reads a rendered constitution without running gin.

  Args:
    path: a file with the text that `Constitution.text` gives.

  Raises:
    StatementError: not literal statements.
    LoadError: unknown names or wrong types.
  """
  values: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
  for binding in parse_statements(path.read_text(), max_bytes=MAX_BYTES):
    name, _, field = binding.selector.rpartition('.')
    types = typing.get_type_hints(_SECTIONS[name]) if name in _SECTIONS else {}
    if field not in types:
      hint = suggestion(binding.selector, _selectors())
      raise LoadError(f'{path}: the constitution has no {binding.selector}{hint}')
    values[name][field] = check_type(binding.value, types[field], binding.selector)
  sections: dict[str, Any] = {}
  for name, cls in _SECTIONS.items():
    sections[name] = cls(**values[name])
  return Constitution(**sections)


def _selectors() -> list[str]:
  """Lists every selector of the constitution."""
  selectors = []
  for name, cls in _SECTIONS.items():
    selectors += [f'{name}.{field.name}' for field in dataclasses.fields(cls)]
  return selectors


def check_literal_only(text: str) -> None:
  """Raises StatementError unless `text` is nothing but literal bindings."""
  parse_statements(text, max_bytes=MAX_BYTES)


def owned_names() -> Sequence[str]:
  """Returns the configurables that belong to the constitution."""
  return tuple(_SECTIONS)


def foreign(bindings: Iterable[Binding]) -> list[str]:
  """Finds bindings of what the constitution owns.

  Args:
    bindings: of a recipe, which may hold none of them.

  Returns:
    Their selectors.
  """
  return [b.selector for b in bindings if b.selector.rpartition('.')[0] in _SECTIONS]
