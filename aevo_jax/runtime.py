"""Child processes: what they inherit, that they end with their parent, how many threads they get.

Imports the standard library only.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys

PARENT = 'AEVO_PARENT_PID'  # set by whoever starts a child process of ours
_PR_SET_PDEATHSIG = 1
# malloc.h
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

# Nothing of the caller's secrets reaches a child: only what Python and XLA need to start.
_INHERITED = (
  'PATH',
  'LANG',
  'LC_ALL',
  'LD_LIBRARY_PATH',
  'PYTHONPATH',
  'VIRTUAL_ENV',
  'TZ',
  'JAX_PLATFORMS',
  'CUDA_VISIBLE_DEVICES',
  'XLA_FLAGS',
)


def child_environment() -> dict[str, str]:
  """Returns the environment of a child process of ours, free of the caller's secrets.

  Returns:
    What Python and XLA need to start, HOME, and `PARENT` for `die_with_parent`.
  """
  environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
  environment['HOME'] = os.environ.get('HOME', '/')
  environment['PYTHONUNBUFFERED'] = '1'
  environment['TF_CPP_MIN_LOG_LEVEL'] = '2'
  environment[PARENT] = str(os.getpid())
  return environment


def close_pipes(process: subprocess.Popen) -> None:
  """Closes both ends of a process that was started with pipes, read or not."""
  with contextlib.suppress(BrokenPipeError):  # a request that it never read
    process.stdin.close()
  process.stdout.close()


def die_with_parent() -> None:
  """Has the kernel kill this process when the thread that started it ends.

  So there are no orphans after kill -9 of the controller.
  """
  ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  # The parent may have ended before this line was reached; then no signal will ever come.
  if PARENT in os.environ and os.getppid() != int(os.environ[PARENT]):
    sys.exit('the process that started this one has ended')


def single_threaded_blas() -> None:
  """Keeps numpy's BLAS from starting threads; call it before numpy is imported.

  XLA brings its own threads.
  """
  for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
    os.environ[name] = '1'


def pin_threads(threads: int) -> None:
  """Makes XLA size its thread pools; call it before its devices are made.

  Weights repeat exactly for a fixed number of threads. The affinity that XLA reads is widened again
  by `unpin`.

  Args:
    threads: of each pool.

  Raises:
    ValueError: this process may use fewer cores.
  """
  single_threaded_blas()
  allowed = sorted(os.sched_getaffinity(0))
  if threads > len(allowed):
    raise ValueError(
      f'{threads} threads a worker, but only {len(allowed)} cores; lower campaign.threads'
    )
  os.sched_setaffinity(0, allowed[:threads])


def tune_for_cpu() -> None:
  """Makes a small model's steps cheaper on a CPU by two settings; call it before jax is imported.

  Besides `compile_quickly`, glibc keeps the memory of a step's large arrays: by default it gives
  them back to the kernel and faults every page in again a step later, which took a third of a
  step's time. benchmarks/cpu_choices.py prints what each setting gains.
  """
  compile_quickly()
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)  # glibc's; elsewhere nothing is changed
  if mallopt is not None:
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_M_TOP_PAD, 1 << 26)
    # The arenas of other threads map and unmap large arrays whatever the thresholds say.
    mallopt(_M_ARENA_MAX, 1)


def compile_quickly() -> None:
  """Stops XLA's CPU compiler at LLVM's first level; call it before jax is imported.

  A training step compiles sooner and runs as fast, since its matrix products are a library's.
  A level named in XLA_FLAGS stays. For a process that compiles and runs little this is enough:
  with the one arena of `tune_for_cpu` the compiler's threads wait for each other.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  name = '--xla_backend_optimization_level'
  if name not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} {name}=1'.strip()


def unpin(cores: set[int]) -> None:
  """Lets the scheduler place this process' threads anywhere again, once XLA's pools exist.

  Args:
    cores: those on which the process may run.
  """
  for task in os.listdir('/proc/self/task'):
    try:
      os.sched_setaffinity(int(task), cores)
    except ProcessLookupError:
      continue  # a thread that ended meanwhile
