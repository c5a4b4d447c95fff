"""Collectives in the turns of a loop whose operand no turn changes."""

import re
from collections.abc import Mapping

from aevo_jax.analysis.collectives import collective_of
from aevo_jax.analysis.diagnosis.dataflow import Dataflow, Value
from aevo_jax.analysis.diagnosis.expected import Asked
from aevo_jax.analysis.diagnosis.finding import Finding, place
from aevo_jax.analysis.hlo import Module

_BODY = re.compile(r'\bbody=%?([\w.-]+)')


def in_loops(module: Module, mesh: Mapping[str, int], asked: Asked) -> list[Finding]:
  """Finds what is gathered again in every turn of a loop, though it stays the same.

  Args:
    module: the program that would run; compilers take some of it out of loops.
    mesh: {axis: size}, in the mesh's order.
    asked: the model under the rules.

  Returns:
    Each array, the most bytes first.
  """
  flow = Dataflow(module)
  constant = _Constant(flow)
  bodies = set()
  for instructions in module.computations.values():
    for instruction in instructions:
      body = _BODY.search(instruction.rest) if instruction.opcode == 'while' else None
      if body:
        bodies.add(body[1])
  found = []
  for executed in module.executed():
    if executed.times < 2 or executed.computation not in bodies:
      continue
    collective = collective_of(executed, module, mesh)
    if collective is None or collective.kind != 'all-gather':
      continue
    value = Value(executed.computation, executed.instruction.name)
    operands = flow.operands(value)
    excess = (collective.times - 1) * collective.result_bytes
    if excess <= asked.small or not all(constant(operand) for operand in operands):
      continue
    weights = sorted({flow.weight(operand) for operand in operands} - {''})
    products = [p.parameter for p in flow.products(operands[0])] if not weights else []
    among = [one for name in weights for one in asked.axes.get(name, ())]
    found.append(
      Finding(
        kind='gathered in a loop',
        array=', '.join(weights) or f'the output of {", ".join(products[:3])}',
        detail=f'is gathered in each of {collective.times} turns and no turn changes it',
        fix='gather it before the loop (context.gather_weight)',
        rules=asked.rules_with(collective.axes, among),
        size=excess,
        source=place(module.stack(executed.instruction)),
        op_name=collective.op_name,
      )
    )
  return sorted(found, key=lambda one: -one.size)


class _Constant:
  """Tells whether a value in the body of a loop is the same in every turn."""

  def __init__(self, flow: Dataflow):
    self._flow = flow
    self._known: dict[Value, bool] = {}

  def __call__(self, value: Value) -> bool:
    known = self._known.get(value)
    if known is None:
      self._known[value] = False  # in a circle of carries
      known = self._known[value] = self._is(value)
    return known

  def _is(self, value: Value) -> bool:
    flow = self._flow
    instruction = flow.instruction(value)
    if instruction.opcode == 'constant':
      return True
    if instruction.opcode == 'parameter':
      given = flow.passed(value)
      # What the loop begins with, and what a turn leaves there.
      return len(given) == 2 and self._is_same(given[1], value)
    operands = flow.operands(value)
    if instruction.opcode in ('while', 'call', 'conditional') or not operands:
      return False
    return all(self(operand) for operand in operands)

  def _is_same(self, left: Value, carried: Value) -> bool:
    """Tells whether a turn leaves an element of the carry as it was."""
    for _ in range(20):
      if left == carried:
        return True
      operands = self._flow.operands(left)
      opcode = self._flow.instruction(left).opcode
      passes = opcode in ('tuple', 'get-tuple-element', 'copy', 'opt-barrier', 'bitcast')
      if not passes or len(operands) != 1:
        return False
      left = operands[0]
    return False
