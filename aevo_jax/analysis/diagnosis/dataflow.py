"""Which parameters and which data the arrays of a partitioned program come from."""

import collections
import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from aevo_jax.analysis.hlo import Instruction, Module, Shape, shapes

# A program's arguments by the names that JAX gives them: state.params['embedding'].
_ARGUMENT = re.compile(r'op_name="(\w+(?:\.\w+)*)(?:\[\\?\'([^\']+?)\\?\'\])?')
_INDEX = re.compile(r'\bindex=(\d+)')
_CALLEES = re.compile(r'\b(?:calls|to_apply|branch_computations|called_computations)=\{?([^}\s]+)')
_BODY = re.compile(r'\bbody=%?([\w.-]+)')
# Results have other elements than operands.
_MIXED = frozenset(
  {'dot', 'convolution', 'reduce', 'reduce-window', 'gather', 'scatter', 'sort', 'custom-call',
   'ragged-dot', 'topk', 'iota', 'constant', 'rng', 'rng-bit-generator', 'partition-id'}
)  # fmt: skip
_PRODUCTS = frozenset({'dot', 'ragged-dot', 'custom-call', 'gather', 'convolution'})
_COPIES = frozenset(
  {'copy', 'convert', 'bitcast', 'reshape', 'transpose', 'slice', 'dynamic-slice', 'pad',
   'opt-barrier', 'get-tuple-element', 'tuple', 'broadcast', 'while', 'parameter',
   'all-gather', 'all-to-all', 'collective-permute', 'dynamic-update-slice', 'call'}
)  # fmt: skip


class Value(NamedTuple):
  """An element of an instruction's result; 0 where the result is no tuple."""

  computation: str
  name: str
  element: int = 0


class Argument(NamedTuple):
  """An argument of the step.

  Attributes:
    tree: 'state.params', 'frozen', 'batch', 'state.opt_state' ...
    name: of the parameter or of the batch's array; '' where the tree has none.
  """

  tree: str
  name: str

  @property
  def is_weight(self) -> bool:
    """Whether it is a parameter of the model."""
    return self.tree in ('state.params', 'frozen')

  @property
  def is_data(self) -> bool:
    """Whether it is of the batch."""
    return self.tree == 'batch'


class Product(NamedTuple):
  """A product with a parameter, or a lookup in it.

  Attributes:
    parameter: its name.
    instruction: the product.
    is_forward: whether its result is the layer's output, rather than a gradient.
  """

  parameter: str
  instruction: Instruction
  is_forward: bool


class Dataflow:
  """Answers where values come from.

  Attributes:
    module: the program.
    arguments: of its entry, by their number.
  """

  def __init__(self, module: Module):
    self.module = module
    self.arguments: dict[int, Argument] = {}
    self._instructions: dict[tuple[str, str], Instruction] = {}
    self._callers: dict[str, Value] = {}
    for computation, instructions in module.computations.items():
      for instruction in instructions:
        self._instructions[computation, instruction.name] = instruction
        for callee in _callees(instruction):
          self._callers[callee] = Value(computation, instruction.name)
    for instruction in module.computations[module.entry]:
      if instruction.opcode == 'parameter':
        named = _ARGUMENT.search(instruction.rest)
        tree, name = (named[1], named[2] or '') if named else ('', '')
        self.arguments[_number(instruction)] = Argument(tree, name)
    self._origins: dict[tuple[str, str], list[int]] = {}
    self._run(
      module.entry, [[1 << number] for number in range(max(self.arguments, default=-1) + 1)]
    )

  def instruction(self, value: Value) -> Instruction:
    """Returns the instruction that gives a value."""
    return self._instructions[value.computation, value.name]

  def origins(self, value: Value) -> list[Argument]:
    """Lists the arguments that a value depends on."""
    mask = self._mask(value)
    return [argument for number, argument in self.arguments.items() if mask >> number & 1]

  def weight(self, value: Value) -> str:
    """Returns the parameter of which alone a value is made, or ''."""
    return self._weights.get(self._mask(value), '')

  def operands(self, value: Value) -> list[Value]:
    """Lists the values that a value is made of, one step back, also through loops and calls."""
    computation, name, element = value
    instruction = self._instructions[computation, name]
    given = [Value(computation, o.name, o.element or 0) for o in instruction.operands]
    opcode = instruction.opcode
    if opcode == 'parameter':
      return list(self._passed(computation, _number(instruction), element))
    if opcode == 'tuple':
      return given[element : element + 1]
    if opcode == 'get-tuple-element':
      index = _INDEX.search(instruction.rest)
      return [given[0]._replace(element=int(index[1]) if index else 0)]
    if opcode == 'while':
      body = _BODY.search(instruction.rest)
      assert body, instruction.name
      return [given[0]._replace(element=element), self._root(body[1], element)]
    if opcode == 'opt-barrier':
      if len(given) > 1:
        return given[element : element + 1]
      return [given[0]._replace(element=element)]
    if opcode in ('call', 'conditional'):
      return [self._root(callee, element) for callee in _callees(instruction)]
    return given

  def passed(self, value: Value) -> list[Value]:
    """Lists what a parameter of a computation is given; a loop's: at first, then by its turns."""
    instruction = self.instruction(value)
    return list(self._passed(value.computation, _number(instruction), value.element))

  def shape(self, value: Value) -> Shape | None:
    """Returns a value's shape; None of a token."""
    found = shapes(self.instruction(value).result)
    return found[value.element] if value.element < len(found) else None

  def size(self, value: Value) -> int:
    """Counts a value's elements."""
    shape = self.shape(value)
    return math.prod(shape.dimensions) if shape else 0

  def products(self, value: Value, limit: int = 4000) -> list[Product]:
    """Lists the nearest products with parameters behind a value.

    Args:
      value: an activation.
      limit: how many values are looked at.

    Returns:
      Those that are as near as the nearest, or nearly so; none where only data is behind it.
    """
    found: dict[str, Product] = {}
    nearest = None
    seen = {value}
    queue = collections.deque([(value, 0)])
    while queue and len(seen) < limit:
      current, distance = queue.popleft()
      if nearest is not None and distance > nearest + _NEARLY:
        break
      instruction = self.instruction(current)
      multiplied = ''
      if instruction.opcode in _PRODUCTS:
        multiplied = self._multiplied(current)
      if multiplied:
        nearest = distance if nearest is None else nearest
        found.setdefault(multiplied, Product(multiplied, instruction, _is_forward(instruction)))
        continue
      for operand in self.operands(current):
        if operand not in seen and self.size(operand) > 1 and not self.weight(operand):
          seen.add(operand)
          queue.append((operand, distance + 1))
    return list(found.values())

  def elementwise(self, value: Value) -> Iterator[Value]:
    """Yields the values of which a value is made element by element, itself included.

    A sum over devices and a gather count as such, products and sums over dimensions end it.
    """
    seen = {value}
    queue = [value]
    while queue:
      current = queue.pop()
      yield current
      if self.instruction(current).opcode in _MIXED:
        continue
      for operand in self.operands(current):
        if operand not in seen and self.size(operand) > 1:
          seen.add(operand)
          queue.append(operand)

  def copied(self, value: Value) -> Iterator[Value]:
    """Yields the values of which a value is a copy or a part, itself included."""
    seen = {value}
    queue = [value]
    while queue:
      current = queue.pop()
      yield current
      if self.instruction(current).opcode not in _COPIES:
        continue
      for operand in self.operands(current):
        if operand not in seen and self.size(operand) > 1:
          seen.add(operand)
          queue.append(operand)

  def results(self) -> list[Value]:
    """Lists the program's results, in order."""
    entry = self.module.entry
    root = self._instructions[entry, self.module.roots[entry]]
    return [Value(entry, root.name, number) for number in range(len(shapes(root.result)))]

  def users(self, value: Value) -> list[Value]:
    """Lists the instructions of the same computation that take a value."""
    return self._users.get((value.computation, value.name), [])

  @functools.cached_property
  def _users(self) -> Mapping[tuple[str, str], list[Value]]:
    users: dict[tuple[str, str], list[Value]] = {}
    for computation, instructions in self.module.computations.items():
      for instruction in instructions:
        for operand in instruction.operands:
          users.setdefault((computation, operand.name), []).append(
            Value(computation, instruction.name)
          )
    return users

  @functools.cached_property
  def _weights(self) -> dict[int, str]:
    return {1 << n: argument.name for n, argument in self.arguments.items() if argument.is_weight}

  def _mask(self, value: Value) -> int:
    origins = self._origins.get((value.computation, value.name), [])
    if value.element < len(origins):
      return origins[value.element]
    return 0

  def _multiplied(self, product: Value) -> str:
    """Returns the parameter that a product multiplies activations with, or ''."""
    weights = [self.weight(operand) for operand in self.operands(product)]
    if all(weights):
      return ''
    return next(filter(None, weights), '')

  def _passed(self, computation: str, number: int, element: int) -> Iterator[Value]:
    """Yields what a computation's parameter is given."""
    caller = self._callers.get(computation)
    if caller is None:
      return
    instruction = self.instruction(caller)
    operands = [Value(caller.computation, o.name, o.element or 0) for o in instruction.operands]
    if instruction.opcode == 'while':
      yield operands[0]._replace(element=element)
      yield self._root(computation, element)
    elif instruction.opcode == 'conditional':
      branch = _callees(instruction).index(computation)
      yield operands[1 + branch]._replace(element=element)
    elif number < len(operands):
      given = operands[number]
      yield given if given.element else given._replace(element=element)

  def _root(self, computation: str, element: int) -> Value:
    return Value(computation, self.module.roots[computation], element)

  def _run(self, computation: str, arguments: list[list[int]]) -> list[int]:
    """Follows arguments' masks through a computation; returns those of its result."""
    for instruction in self.module.computations[computation]:
      masks = self._masks(computation, instruction, arguments)
      known = self._origins.get((computation, instruction.name))
      if known is not None and len(known) == len(masks):
        masks = [a | b for a, b in zip(known, masks, strict=True)]
      self._origins[computation, instruction.name] = masks
    return self._origins[computation, self.module.roots[computation]]

  def _masks(
    self, computation: str, instruction: Instruction, arguments: list[list[int]]
  ) -> list[int]:
    opcode = instruction.opcode
    if opcode == 'parameter':
      number = _number(instruction)
      return arguments[number] if number < len(arguments) else [0]
    given = []
    for operand in instruction.operands:
      masks = self._origins.get((computation, operand.name), [0])
      if operand.element is not None:
        masks = masks[operand.element : operand.element + 1] or [0]
      given.append(masks)
    if opcode == 'tuple':
      return [_union(masks) for masks in given]
    if opcode == 'get-tuple-element':
      index = _INDEX.search(instruction.rest)
      number = int(index[1]) if index else 0
      return given[0][number : number + 1] or [0]
    if opcode == 'opt-barrier':
      return [mask for masks in given for mask in masks]
    if opcode == 'while':
      return self._looped(instruction, given[0])
    if opcode == 'call':
      return self._run(_callees(instruction)[0], given)
    if opcode == 'conditional':
      branches = [self._run(c, [m]) for c, m in zip(_callees(instruction), given[1:], strict=True)]
      return [_union(masks) for masks in zip(*branches, strict=True)]
    union = _union(mask for masks in given for mask in masks)
    return [union] * max(1, len(shapes(instruction.result)))

  def _looped(self, instruction: Instruction, carry: list[int]) -> list[int]:
    body = _BODY.search(instruction.rest)
    assert body, instruction.name
    while True:
      after = [a | b for a, b in zip(carry, self._run(body[1], [carry]), strict=True)]
      if after == carry:
        return carry
      carry = after


_NEARLY = 3


def _union(masks) -> int:
  return functools.reduce(lambda a, b: a | b, masks, 0)


def _number(instruction: Instruction) -> int:
  return int(instruction.rest.partition(')')[0])


def _callees(instruction: Instruction) -> list[str]:
  if instruction.opcode == 'while':
    body = _BODY.search(instruction.rest)
    return [body[1]] if body else []
  if instruction.opcode not in ('call', 'conditional'):
    return []
  found = []
  for called in _CALLEES.findall(instruction.rest):
    found += [name.lstrip('%') for name in called.split(',') if name]
  return found


def _is_forward(instruction: Instruction) -> bool:
  path = instruction.op_name
  return 'transpose(jvp' not in path or 'rematted_computation' in path
