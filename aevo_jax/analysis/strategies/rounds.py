"""Times of meshes' training steps on the devices at hand, taken in turns by another process."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aevo_jax import runtime
from aevo_jax.analysis import targets

_ARMS = (sys.executable, '-m', 'aevo_jax.analysis.strategies.arms')
# The baseline's program a second time, as an arm of its own.
CONTROL = 'control'
_PROBE = """
import jax
print(jax.default_backend(), jax.device_count(), jax.devices()[0].device_kind)
"""


def environment(target: targets.Target) -> dict[str, str]:
  """Returns the environment of a process that runs on a target's devices.

  Args:
    target: the devices; those of a CPU are simulated.
  """
  inherited = dict(os.environ) | {runtime.PARENT: str(os.getpid())}
  if target.kind == 'cpu':
    flags = inherited.get('XLA_FLAGS', '')
    count = f'--xla_force_host_platform_device_count={target.devices}'
    inherited |= {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': f'{flags} {count}'.strip()}
  return inherited


def why_not_at_hand(target: targets.Target) -> str:
  """Says why nothing can be measured on a target here.

  Args:
    target: the devices.

  Returns:
    '' where as many devices of its platform are there, or simulated ones are asked for.
  """
  if target.kind == 'cpu':
    return ''
  probe = [sys.executable, '-c', _PROBE]
  done = subprocess.run(probe, capture_output=True, text=True, check=False, env=environment(target))
  backend, _, rest = done.stdout.strip().partition(' ')
  count, _, kind = rest.partition(' ')
  if backend == target.platform and count == str(target.devices):
    return ''
  found = f'{count} x {kind or backend}' if count else 'none that JAX can use'
  return f'{target.name} is not at hand; the devices here: {found}'


class Rounds:
  """What was measured so far.

  Attributes:
    seconds: arm -> median seconds of a step in each round.
    losses: arm -> of the first state; the same on every mesh.
    errors: arm -> why it failed.
    devices: on which arms ran, in words.
  """

  def __init__(self, report: Callable[[str], None], program: Sequence[str] = _ARMS):
    """Begins with nothing.

    Args:
      report: gets a line for each arm that is compiled and each turn.
      program: of the process that runs the arms, `arms` or what speaks as it does.
    """
    self.seconds: dict[str, list[float]] = {}
    self.losses: dict[str, float] = {}
    self.errors: dict[str, str] = {}
    self.devices = ''
    self._report = report
    self._program = program

  def run(self, job: Mapping[str, Any], target: targets.Target) -> None:
    """Measures; when it is interrupted, what was measured until then stays.

    A process that dies takes its arm out, and its round does not count; another process measures
    the rounds that are left.

    Args:
      job: fields of `arms.Job`.
      target: the devices.
    """
    meshes = dict(job['meshes'])
    complete = 0
    while meshes and complete < job['rounds']:
      left = dict(job) | {'meshes': meshes, 'rounds': job['rounds'] - complete}
      if not self._process(left, target):
        return
      meshes = {name: path for name, path in meshes.items() if name not in self.errors}
      complete = min((len(self.seconds.get(name, ())) for name in meshes), default=0)
      for times in self.seconds.values():
        del times[complete:]

  def _process(self, job: Mapping[str, Any], target: targets.Target) -> str:
    """Runs one process; returns the arm in whose turn it died, '' if it did not."""
    with tempfile.TemporaryFile('w+') as errors:
      process = subprocess.Popen(
        self._program,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environment(target),
      )
      turn = next(iter(job['meshes']))
      try:
        assert process.stdin and process.stdout, 'they are pipes'
        with contextlib.suppress(BrokenPipeError):  # its status will say why it reads nothing
          process.stdin.write(json.dumps(job))
          process.stdin.close()
        for line in process.stdout:
          if line.startswith('{'):
            turn = self._take(json.loads(line)) or turn
        status = process.wait()
      finally:
        process.kill()
        process.wait()
        runtime.close_pipes(process)
      if status == 0:
        return ''
      errors.seek(0)
      last = errors.read().strip().splitlines()[-1:] or ['nothing on standard error']
    self.errors[turn] = f'its process ended with status {status}: {last[0][:300]}'
    self._report(f'{turn}: {self.errors[turn]}')
    return turn

  def _take(self, facts: Mapping[str, Any]) -> str:
    """Takes one line of the process; returns the arm whose turn begins with it, if one does."""
    if 'devices' in facts:
      self.devices = facts['devices']
    elif 'compiled' in facts:
      self._report(f'{facts["compiled"]}: compiled to be run, {facts["seconds"]} s')
    elif 'error' in facts:
      self.errors[facts['arm']] = facts['error']
      self._report(f'{facts["arm"]}: {facts["error"]}')
    elif 'seconds' in facts:
      arm = facts['arm']
      times = self.seconds.setdefault(arm, [])
      times.append(statistics.median(facts['seconds']))
      self.losses[arm] = facts['loss']
      self._report(f'{arm}: round {len(times)}, {times[-1] * 1e3:.4g} ms a step')
    return facts.get('turn', '')
