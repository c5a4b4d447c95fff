"""Reads the text of a compiled or partitioned program: its instructions, and how often each runs.

XLA's `cost_analysis` counts the body of a loop once, however often it runs, and says nothing of
collectives. Here a loop's instructions count by its trips.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_BYTES = {
  'pred': 1, 's4': 1, 'u4': 1, 's8': 1, 'u8': 1, 'f8e4m3fn': 1, 'f8e5m2': 1,
  's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2,
  's32': 4, 'u32': 4, 'f32': 4,
  's64': 8, 'u64': 8, 'f64': 8, 'c64': 8, 'c128': 16,
}  # fmt: skip
_SHAPE = re.compile(rf'\b({"|".join(_BYTES)})\[([\d,]*)\]')
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) (\(.*\) -> .* )?\{$')
_INSTRUCTION = re.compile(r'^ +(?:ROOT )?%?([\w.-]+) = ')
_OPCODE = re.compile(r' ?([\w-]+)\(')
_CALLED = re.compile(
  r'\b(?:calls|to_apply|body|called_computations|true_computation|false_computation|'
  r'branch_computations|async_execution_thread)=\{?%?([\w.-]+(?:, ?%[\w.-]+)*)'
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONSTANT = re.compile(r'[su]32\[\][^ ]* constant\((\d+)\)')
_LOOP = re.compile(r'condition=%?([\w.-]+), body=%?([\w.-]+)')
_OPERAND = re.compile(r'%([\w.-]+)(?:#(\d+))?')
_FRAME = re.compile(r'stack_frame_id=(\d+)')
_NAME = re.compile(r'op_name="([^"]*)"')


class Shape(NamedTuple):
  """An array's dtype, in HLO's words, and dimensions."""

  dtype: str
  dimensions: tuple[int, ...]

  @property
  def bytes(self) -> int:
    """Its size."""
    return math.prod(self.dimensions) * _BYTES[self.dtype]


def shapes(text: str) -> list[Shape]:
  """Lists the arrays that a type's text names, a tuple's in order."""
  found = []
  for dtype, dimensions in _SHAPE.findall(text):
    found.append(Shape(dtype, tuple(int(size) for size in dimensions.split(',') if size)))
  return found


class Operand(NamedTuple):
  """The instruction that gives an operand, and which element of its tuple, if one alone."""

  name: str
  element: int | None


class Instruction(NamedTuple):
  """A line of a computation.

  Attributes:
    name: within the module.
    result: text of its type.
    opcode: e.g. 'dot', 'all-gather-start'.
    rest: operands and attributes, as text.
  """

  name: str
  result: str
  opcode: str
  rest: str

  @property
  def operands(self) -> list['Operand']:
    """Its operands, in order."""
    found = []
    for name, element in _OPERAND.findall(_until_closed(self.rest)):
      found.append(Operand(name, int(element) if element else None))
    return found

  @property
  def op_name(self) -> str:
    """The path of JAX's functions in which it was made, or ''."""
    found = _NAME.search(self.rest)
    return found[1] if found else ''

  def attribute(self, name: str) -> tuple[int, ...]:
    """Returns an attribute that lists numbers in braces; without it none."""
    found = re.search(rf'\b{name}=\{{([\d,]*)\}}', self.rest)
    if found is None:
      return ()
    return tuple(int(number) for number in found[1].split(',') if number)


class Executed(NamedTuple):
  """An instruction, the computation it stands in, and how often a step runs it."""

  instruction: Instruction
  computation: str
  times: int


@dataclasses.dataclass(frozen=True)
class Module:
  """A program.

  Attributes:
    computations: instructions of each, by name.
    entry: name of the one that runs.
    frames: source line of each stack frame, innermost of this package's where it has any.
    stacks: of each stack frame the places in this package, the innermost first.
    roots: the instruction that gives each computation's result, by the computation's name.
  """

  computations: dict[str, list[Instruction]]
  entry: str
  frames: dict[int, str]
  stacks: dict[int, tuple['Location', ...]] = dataclasses.field(default_factory=dict)
  roots: dict[str, str] = dataclasses.field(default_factory=dict)

  def executed(self) -> Iterator[Executed]:
    """Yields every instruction that a step runs, with how often."""
    yield from self._walk(self.entry, 1)

  def _walk(self, name: str, times: int) -> Iterator[Executed]:
    for instruction in self.computations.get(name, ()):
      yield Executed(instruction, name, times)
      if instruction.opcode == 'while':
        loop = _LOOP.search(instruction.rest)
        assert loop, f'a loop without condition and body: {instruction.name}'
        yield from self._walk(loop[2], times * self._trips(instruction, loop[1]))
        continue
      if instruction.opcode in _APPLIED_TO_ELEMENTS:
        continue
      for called in _CALLED.findall(instruction.rest):
        for computation in re.split(r', ?%?', called):
          yield from self._walk(computation, times)

  def _trips(self, loop: Instruction, condition: str) -> int:
    """Returns how often a loop runs: as XLA knows it, or the bound of its condition."""
    known = _TRIPS.search(loop.rest)
    if known:
      return int(known[1])
    bounds = []
    for instruction in self.computations[condition]:
      found = _CONSTANT.search(f'{instruction.result} {instruction.opcode}({instruction.rest}')
      if found:
        bounds.append(int(found[1]))
    return max(bounds, default=1)

  @functools.cached_property
  def _results(self) -> dict[tuple[str, str], str]:
    results = {}
    for computation, instructions in self.computations.items():
      for instruction in instructions:
        results[computation, instruction.name] = instruction.result
    return results

  def operand_shapes(self, executed: Executed) -> list[Shape]:
    """Returns the shapes of an instruction's operands, tuples' arrays in order."""
    found = []
    for operand in executed.instruction.operands:
      arrays = shapes(self._results.get((executed.computation, operand.name), ''))
      found += arrays if operand.element is None else [arrays[operand.element]]
    return found

  def source(self, instruction: Instruction) -> str:
    """Returns the file and line that made an instruction, or ''."""
    frame = _FRAME.search(instruction.rest)
    return self.frames.get(int(frame[1]), '') if frame else ''

  def stack(self, instruction: Instruction) -> tuple['Location', ...]:
    """Returns the places in this package that made an instruction, the innermost first."""
    frame = _FRAME.search(instruction.rest)
    return self.stacks.get(int(frame[1]), ()) if frame else ()

  def flops(self) -> float:
    """Counts the operations of all matrix products of a step, on one device."""
    total = 0.0
    for executed in self.executed():
      if executed.instruction.opcode == 'dot':
        total += executed.times * self._flops_of(executed)
    return total

  def grouped_flops(self) -> float:
    """Counts the operations of kernels that multiply groups of rows, if every row has a group."""
    total = 0.0
    for executed in self.executed():
      instruction = executed.instruction
      is_kernel = instruction.opcode == 'custom-call' and _GROUPED in instruction.op_name
      if is_kernel or instruction.opcode == 'ragged-dot':
        left, right = self.operand_shapes(executed)[:2]
        # Groups' matrices [e, d, f], or for their gradient rows [s, f].
        total += executed.times * 2.0 * math.prod(left.dimensions) * right.dimensions[-1]
    return total

  def attention_flops(self) -> float:
    """Counts the operations of attention's kernels.

    A query is taken to see half of the keys, as in causal rows of one segment.
    """
    total = 0.0
    for executed in self.executed():
      instruction = executed.instruction
      if instruction.opcode != 'custom-call' or _MOSAIC not in instruction.rest:
        continue
      operands = self.operand_shapes(executed)
      if len(operands) < 4 or any(len(shape.dimensions) != 3 for shape in operands[:3]):
        continue
      queries, keys, values, fourth = operands[:4]
      if keys != values or queries.dimensions[2] != keys.dimensions[2]:
        continue  # a grouped product
      products = 2  # scores and their mix
      if fourth == queries:  # the gradient of the result: scores again, and three or two more
        products = 4 if shapes(instruction.result)[0] == keys else 3
      pairs = queries.dimensions[0] * keys.dimensions[0] / 2
      width = queries.dimensions[1] * queries.dimensions[2]
      total += executed.times * products * 2.0 * pairs * width
    return total

  def _flops_of(self, executed: Executed) -> float:
    result = shapes(executed.instruction.result)[0]
    left = self.operand_shapes(executed)[0]
    contracted = executed.instruction.attribute('lhs_contracting_dims')
    inner = math.prod(left.dimensions[dimension] for dimension in contracted)
    return 2.0 * math.prod(result.dimensions) * inner


_MOSAIC = 'custom_call_target="mosaic_gpu'
_GROUPED = 'ragged'  # in the names of tokamax's kernels
# Their computations combine two elements, and are no part of the program's flow.
_APPLIED_TO_ELEMENTS = frozenset(
  {
    'reduce',
    'reduce-window',
    'scatter',
    'select-and-scatter',
    'sort',
    'map',
    'all-reduce',
    'all-reduce-start',
    'reduce-scatter',
  }
)


def parse(text: str) -> Module:
  """Reads a module's text.

  Args:
    text: of HLO, of any stage.

  Returns:
    The module.

  Raises:
    ValueError: the text has no entry computation.
  """
  computations: dict[str, list[Instruction]] = {}
  entry = ''
  roots: dict[str, str] = {}
  name = ''
  current: list[Instruction] | None = None
  for line in text.splitlines():
    opened = _COMPUTATION.match(line)
    if opened:
      name = opened[2]
      current = computations.setdefault(name, [])
      if opened[1]:
        entry = opened[2]
    elif line.startswith('}'):
      current = None
    elif current is not None:
      instruction = _instruction(line)
      if instruction is not None:
        current.append(instruction)
        if line.lstrip().startswith('ROOT '):
          roots[name] = instruction.name
  if not entry:
    raise ValueError('no HLO module: the text has no ENTRY computation')
  stack = _stack(text)
  frames = {number: stack.innermost_of_ours(number) for number in stack.places}
  stacks = {number: stack.of_ours(number) for number in stack.places}
  return Module(computations, entry, frames, stacks, roots)


def _instruction(line: str) -> Instruction | None:
  named = _INSTRUCTION.match(line)
  if named is None:
    return None
  rest = line[named.end() :]
  if rest.startswith('('):
    length = len(_until_closed(rest[1:])) + 2
  else:
    length = rest.index(' ')
  operation = _OPCODE.match(rest, length)
  if operation is None:
    return None
  return Instruction(named[1], rest[:length], operation[1], rest[operation.end() :])


def _until_closed(text: str) -> str:
  """Returns what stands before the parenthesis that closes one opened before the text."""
  depth = 1
  for position, character in enumerate(text):
    if character == '(':
      depth += 1
    elif character == ')':
      depth -= 1
      if not depth:
        return text[:position]
  return text


class Location(NamedTuple):
  """A line of a file, and the function that it stands in."""

  file: str
  line: int
  function: str


class _Stack(NamedTuple):
  """Stack frames by number, and the frame that called each."""

  places: dict[int, Location]
  parents: dict[int, int]

  def innermost_of_ours(self, number: int) -> str:
    """Returns file and line of the innermost frame of this package, or of the frame itself."""
    place = next(iter(self.of_ours(number)), self.places[number])
    return f'{place.file}:{place.line}' if place.file else ''

  def of_ours(self, number: int) -> tuple[Location, ...]:
    """Returns the frames of this package, the innermost first; files begin with its name."""
    found = []
    for place in self._outwards(number):
      if '/aevo_jax/' in place.file:
        found.append(place._replace(file=f'aevo_jax/{place.file.rpartition("/aevo_jax/")[2]}'))
    return tuple(found)

  def _outwards(self, number: int) -> Iterator[Location]:
    while number in self.places:
      yield self.places[number]
      number = self.parents[number]


def _stack(text: str) -> _Stack:
  """Reads the tables of source lines at the head of a module."""
  files = {
    int(n): name for n, name in re.findall(r'^(\d+) "([^"]*/[^"]*\.py)"$', text, re.MULTILINE)
  }
  named = text.partition('\nFunctionNames\n')[2].partition('\n\n')[0]
  names = {int(n): name for n, name in re.findall(r'^(\d+) "([^"]*)"$', named, re.MULTILINE)}
  locations = {}
  located = r'^(\d+) \{file_name_id=(\d+) function_name_id=(\d+) .*?\bline=(\d+)'
  for number, file, function, line in re.findall(located, text, re.MULTILINE):
    place = Location(files.get(int(file), ''), int(line), names.get(int(function), ''))
    locations[int(number)] = place
  parents = {}
  places = {}
  stacked = r'^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?'
  for number, location, parent in re.findall(stacked, text, re.MULTILINE):
    places[int(number)] = locations.get(int(location), Location('', 0, ''))
    parents[int(number)] = int(parent or 1) - 1  # counted from 1, which stands for none
  return _Stack(places, parents)
