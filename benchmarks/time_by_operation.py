"""Where the time of our side of versus.py goes.

Each operation of a trace, and how fast its matrix products are beside those of this machine alone.

  make parity                                                          once: writes the weights
  .venv/bin/python benchmarks/time_by_operation.py sft|ragged|sampling|grpo      with nothing else
  running

An operation's time is summed over threads. Its kind is read from the compiled program: 'product' is
a matrix product with what was fused to it.
"""

import argparse
import collections
import os
import pathlib
import re
import sys
import tempfile
import time

DUMP = tempfile.TemporaryDirectory()
os.environ['XLA_FLAGS'] = (
  # read when JAX is imported
  f'{os.environ.get("XLA_FLAGS", "")} --xla_dump_to={DUMP.name} --xla_dump_hlo_as_text'
)
sys.path.insert(0, str(pathlib.Path(__file__).parent / 'peers'))

import jax
import jax.numpy as jnp
import ours
import versus
from jax.profiler import ProfileData

WORKLOADS = {
  'sft': (ours.sft, {'ragged': False}),
  'ragged': (ours.sft, {'ragged': True}),
  'sampling': (ours.sampling, {}),
  'grpo': (ours.grpo, {}),
}
CALLS = 4
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*)')
_SHAPE = re.compile(r'\[([\d,]*)\]')


def size(shape: str) -> int:
  found = 1
  for d in filter(None, _SHAPE.search(shape)[1].split(',')):
    found *= int(d)
  return found


def operations(text: str) -> dict[str, tuple[str, float]]:
  """Of a module's text.

  Instruction -> kind, and floating-point operations of its matrix products.
  """
  bodies, body = collections.defaultdict(list), ''
  for line in text.splitlines():
    if line.startswith(('%', 'ENTRY')):
      body = line.split()[1 if line.startswith('ENTRY') else 0].lstrip('%')
    elif found := _INSTRUCTION.match(line):
      bodies[body].append(found.groups())
  flops, attention = {}, set()
  for body, instructions in bodies.items():
    shapes = {name: shape for name, shape, *_ in instructions}
    total = 0
    for _, shape, operation, rest in instructions:
      if operation == 'dot':
        if re.search(r'op_name="[^"]*b[kts]+q\w*,', rest):  # its einsum's letters
          attention.add(body)
        left = [
          int(d) for d in _SHAPE.search(shapes[re.match(r'%([^,)\s]+)', rest)[1]])[1].split(',')
        ]
        total += (
          2
          * size(shape)
          * jnp.prod(
            jnp.array(
              [
                left[int(i)]
                for i in re.search(r'lhs_contracting_dims={([\d,]*)}', rest)[1].split(',')
              ]
            )
          ).item()
        )
    flops[body] = total
  kinds = {}
  for instructions in bodies.values():
    for name, _, operation, rest in instructions:
      called = re.search(r'calls=%([^,\s]+)', rest)
      done = flops.get(called[1], 0) if called else 0
      kind = 'other'
      if done:
        kind = 'product of attention' if called and called[1] in attention else 'product'
      elif operation in ('copy', 'transpose') or 'copy' in name or 'transpose' in name:
        kind = 'copy'
      kinds[name] = (
        kind,
        float(done),
      )
  return kinds


def peak() -> float:
  """Floating-point operations a second of products as large as the step's.

  The median of several.
  """
  a, b = jnp.ones((2048, 256)), jnp.ones((256, 768))
  product = jax.jit(lambda a, b: a @ b)
  times = []
  for _ in range(60):
    started = time.perf_counter()
    product(a, b).block_until_ready()
    times.append(time.perf_counter() - started)
  return 2 * 2048 * 256 * 768 / sorted(times)[30]


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('workload', choices=WORKLOADS)
  make, asked = WORKLOADS[parser.parse_args().workload]
  versus.ENGINES['trl'].check()
  with tempfile.TemporaryDirectory() as scratch:
    versus.write_model(pathlib.Path(scratch))
    run = make(asked | {'model': scratch})
    for _ in range(3):
      run()
    started = time.perf_counter()
    with jax.profiler.trace(scratch):
      for _ in range(CALLS):
        run()
      wall = (time.perf_counter() - started) / CALLS
    trace = ProfileData.from_file(str(next(pathlib.Path(scratch).rglob('*.xplane.pb'))))
  programs = {
    path.name.split('.')[1]: operations(path.read_text())
    for path in sorted(pathlib.Path(DUMP.name).glob('*.cpu_after_optimizations.txt'))
  }
  seconds, flops = collections.Counter(), collections.Counter()
  for line in (line for plane in trace.planes for line in plane.lines):
    for event in line.events:
      facts = dict(event.stats)
      if 'hlo_op' not in facts:
        continue
      kind, done = programs.get(facts['hlo_module'], {}).get(facts['hlo_op'], ('other', 0.0))
      if kind == 'other' and facts['hlo_op'].startswith(('while', 'call', 'conditional')):
        continue  # what they contain is counted
      key = (facts['hlo_module'].removeprefix('jit_'), kind)
      seconds[key] += event.duration_ns / 1e9 / CALLS
      flops[key] += done / CALLS
  print(
    f'{wall * 1e3:.0f} ms a call; products alone {peak() / 1e9:.0f} GFLOP/s\n\n| program '
    '| operations | ms of all threads | share | GFLOP/s of the call '
    '|\n|---|---|---|---|---|'
  )
  whole = sum(seconds.values())
  for key, s in seconds.most_common(12):
    print(
      f'| {key[0]} | {key[1]} | {s * 1e3:.1f} | {s / whole:.0%} | {flops[key] / wall / 1e9:.0f} |'
    )


if __name__ == '__main__':
  main()
