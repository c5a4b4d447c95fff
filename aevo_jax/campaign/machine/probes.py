"""Probes of the machine: what the controller sees for itself, whatever a worker says."""

import errno
import os
import pathlib
import resource
import shutil
import subprocess
import sys

from aevo_jax import faults
from aevo_jax.runtime import child_environment

_PROBE = '.probe'
_WRITTEN = 2**16
_LARGEST_PROBE = 2**30
_COMPUTE = 'import jax; print(jax.numpy.ones(8).sum())'
_COMPUTE_SECONDS = 120
# Limits above this are the kernel's way to say that there is none.
_NO_LIMIT = 2**60


class Machine:
  """The machine of a campaign.

  Args:
    cgroups: where the kernel shows control groups.
    proc: where it shows processes.
    devices: where it shows device files.
  """

  def __init__(
    self,
    cgroups: pathlib.Path = pathlib.Path('/sys/fs/cgroup'),
    proc: pathlib.Path = pathlib.Path('/proc'),
    devices: pathlib.Path = pathlib.Path('/dev'),
  ):
    self._cgroups = cgroups
    self._proc = proc
    self._devices = devices

  def disk_error(self, directory: pathlib.Path, needed: int) -> OSError | None:
    """Tries to write to the disk of a directory.

    Args:
      directory: it exists.
      needed: bytes that should have room; up to 1 GiB of them are taken for a moment.

    Returns:
      What the system says, None where there is room.
    """
    path = directory / _PROBE
    try:
      with path.open('wb') as file:
        file.write(os.urandom(_WRITTEN))
        file.flush()
        os.fsync(file.fileno())
        if needed > _WRITTEN:
          os.posix_fallocate(file.fileno(), 0, min(needed, _LARGEST_PROBE))
      if needed > _LARGEST_PROBE and self.disk_free(directory) < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
      return OSError(error.errno, os.strerror(error.errno), str(directory))
    finally:
      _remove(path)
    return None

  def disk_free(self, directory: pathlib.Path) -> int:
    """Returns the bytes that may still be written where a directory lies, or will lie."""
    while not directory.exists():
      directory = directory.parent
    return shutil.disk_usage(directory).free

  def memory_free(self) -> int:
    """Returns the bytes of memory that can be had: of the machine, and of our control group."""
    fields = {}
    for line in (self._proc / 'meminfo').read_text().splitlines():
      name, _, value = line.partition(':')
      fields[name] = int(value.split()[0]) * 1024
    free = [fields['MemAvailable'] + fields.get('SwapFree', 0)]
    for limit, usage in (
      ('memory.max', 'memory.current'),
      ('memory.limit_in_bytes', 'memory.usage_in_bytes'),
    ):
      most = self._cgroup_number(limit)
      used = self._cgroup_number(usage)
      if most is not None and used is not None and most < _NO_LIMIT:
        free.append(most - used)
    return max(0, min(free))

  def memory_limit(self) -> int | None:
    """Returns the least limit on memory that our children inherit (ulimit -v, -d), or None."""
    limits = []
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
      soft, _ = resource.getrlimit(kind)
      if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    return min(limits, default=None)

  def oom_kills(self) -> int:
    """Counts the processes that the kernel killed for want of memory.

    Returns:
      Those of our control group where the kernel shows it, else those of the machine.
    """
    for name in ('memory.events', 'memory.oom_control'):
      text = self._cgroup_text(name)
      for line in (text or '').splitlines():
        if line.startswith('oom_kill '):
          return int(line.split()[1])
    for line in (self._proc / 'vmstat').read_text().splitlines():
      if line.startswith('oom_kill '):
        return int(line.split()[1])
    return 0

  def accelerators(self) -> tuple[str, ...]:
    """Lists the accelerators: as nvidia-smi names them where it runs, else their device files."""
    found = []
    for pattern in ('nvidia[0-9]*', 'accel*', 'vfio/[0-9]*'):
      found += sorted(self._devices.glob(pattern))
    lister = shutil.which('nvidia-smi')
    if found and lister is not None:
      done = subprocess.run([lister, '-L'], capture_output=True, text=True, check=False)
      return tuple(done.stdout.splitlines())
    return tuple([str(path) for path in found])

  def device_error(self) -> str | None:
    """Tries to compute on the devices that JAX finds.

    Returns:
      The last line of what a process said that could not; None where one can.
    """
    try:
      done = subprocess.run(
        [sys.executable, '-c', _COMPUTE],
        capture_output=True,
        text=True,
        check=False,
        timeout=_COMPUTE_SECONDS,
        env=child_environment() | {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'},
      )
    except subprocess.TimeoutExpired:
      return f'no answer in {_COMPUTE_SECONDS} s'
    if done.returncode == 0 or faults.DEVICE_OUT_OF_MEMORY in done.stderr:
      return None  # it computes, or for others
    return (done.stderr.strip().splitlines() or [f'exit status {done.returncode}'])[-1]

  def _cgroup_number(self, name: str) -> int | None:
    text = (self._cgroup_text(name) or '').strip()
    return int(text) if text.isdigit() else None

  def _cgroup_text(self, name: str) -> str | None:
    """Reads a file of this process' control group, of the second version or the first."""
    for line in (self._proc / 'self' / 'cgroup').read_text().splitlines():
      _, controllers, path = line.split(':', 2)
      if controllers not in ('', 'memory'):
        continue
      root = self._cgroups / controllers
      # In a container the group's own path may not be shown; then its root is the group.
      for directory in (root / path.lstrip('/'), root):
        file = directory / name
        if file.exists():
          return file.read_text()
    return None


def _remove(path: pathlib.Path) -> None:
  try:
    path.unlink(missing_ok=True)
  except OSError:
    return  # read-only: then it was never made
