"""Arrays that a partitioner makes whole on every device, because it cannot lay them out otherwise.

XLA says so while it compiles, and in no other place. Each is one that the rules did not ask for.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from aevo_jax.analysis.hlo import Module, shapes
from aevo_jax.sharding.rules import Layout

_SAID = re.compile(
  r'Involuntary full rematerialization\. The compiler cannot go from sharding (?P<before>\{.*?\}) '
  r'to (?P<after>\{.*?\}) efficiently for HLO operation %[\w.-]+ = (?P<result>\S+) '
  r'(?P<opcode>[\w-]+)\((?P<rest>.*)'
)
_NAME = re.compile(r'op_name="([^"]*)"')
_FRAME = re.compile(r'stack_frame_id=(\d+)')
_AXIS = re.compile(r"'([^']+)'")


class Resharded(NamedTuple):
  """An array that is made whole and cut again.

  Attributes:
    array: dtype and dimensions of a device's part, in HLO's words.
    size: its bytes.
    opcode: of the operation that gives it.
    op_name: the path of JAX's functions in which it was made, or ''.
    source: the line of code that made it, or ''.
    before, after: how it lies and is to lie, in HLO's words.
    rules: logical axes whose mesh axes are among those.
  """

  array: str
  size: int
  opcode: str
  op_name: str
  source: str
  before: str
  after: str
  rules: tuple[str, ...]


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
  """Collects what this process's compiler writes to standard error.

  Yields:
    A list that has the lines about resharding after the block; the others are written on.
  """
  heard: list[str] = []
  sys.stderr.flush()
  kept = os.dup(2)
  with tempfile.TemporaryFile('w+', encoding='utf-8', errors='replace') as file:
    os.dup2(file.fileno(), 2)
    try:
      yield heard
    finally:
      os.dup2(kept, 2)
      os.close(kept)
      file.seek(0)
      for line in file:
        if _SAID.search(line):
          heard.append(line)
        else:
          sys.stderr.write(line)


def read(text: str, module: Module, layout: Layout) -> list[Resharded]:
  """Reads what a compiler has said.

  Args:
    text: its messages.
    module: the program, whose tables name source lines.
    layout: whose rules are named.

  Returns:
    Each array once, the largest first.
  """
  found = {}
  for said in _SAID.finditer(text):
    name = _NAME.search(said['rest'])
    frame = _FRAME.search(said['rest'])
    source = ''
    if frame:
      source = module.frames.get(int(frame[1]), '')
    axes = set(_AXIS.findall(said['before'])) | set(_AXIS.findall(said['after']))
    one = Resharded(
      array=said['result'].partition('{')[0],
      size=sum(shape.bytes for shape in shapes(said['result'])),
      opcode=said['opcode'],
      op_name=name[1] if name else '',
      source=source,
      before=said['before'],
      after=said['after'],
      rules=tuple(logical for logical, of in layout.rules if axes & set(of)),
    )
    found[one.array, one.before, one.after, one.op_name] = one
  return sorted(found.values(), key=lambda one: -one.size)


def sentence(one: Resharded) -> str:
  """Says of an array what happens to it and which rules to look at."""
  place = ' '.join(filter(None, [one.source, one.op_name])) or f'the result of {one.opcode}'
  rules = ', '.join(repr(name) for name in one.rules) or 'none of the rules'
  return (
    f'{one.array} ({place}) is made whole on every device, to go from {one.before} to '
    f'{one.after}; rules with these axes: {rules}'
  )
