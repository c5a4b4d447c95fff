"""A finding: something that devices send, hold or compute and that no rule asks for."""

import dataclasses
from collections.abc import Sequence

from aevo_jax.analysis.hlo import Location

# Frames that say nothing of where an array belongs.
_PASSED_THROUGH = (
  'Linear.__call__', 'matmul', '_matmul_forward', '_gradients', 'constrain', '_gathered',
  '_gathered_backward', 'gather_weight', 'RMSNorm.__call__', 'flatten', 'unflatten', 'over_tokens',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Finding:
  """Something to change.

  Attributes:
    kind: what happens, in two or three words.
    array: the parameter, or the activation by the parameter whose product it is.
    detail: what happens to it, as the rest of a sentence.
    fix: what to change.
    rules: the logical axes whose rules are involved.
    size: bytes of a step on each device; 0 where nothing is sent.
    source: file and line, and the functions around it.
    op_name: the path of JAX's functions.
  """

  kind: str
  array: str
  detail: str
  fix: str
  rules: tuple[str, ...] = ()
  size: int = 0
  source: str = ''
  op_name: str = ''

  @property
  def sentence(self) -> str:
    """The finding as one line of a report."""
    place = f' ({self.source})' if self.source else ''
    size = f', {self.size / 2**20:.1f} MiB a step on each device' if self.size else ''
    rules = f' [rules: {", ".join(self.rules)}]' if self.rules else ''
    return f'{self.kind}: {self.array}{place} {self.detail}{size}; {self.fix}{rules}'


def place(stack: Sequence[Location]) -> str:
  """Writes where an array is made.

  Args:
    stack: the places in this package, the innermost first.

  Returns:
    File, line and function of the innermost place, and of the first that tells layers apart.
  """
  if not stack:
    return ''
  inner = stack[0]
  said = f'{inner.file}:{inner.line} {inner.function}'
  if inner.function not in _PASSED_THROUGH:
    return said
  for outer in stack[1:]:
    if outer.function not in _PASSED_THROUGH:
      return f'{said}, from {outer.file}:{outer.line} {outer.function}'
  return said
