"""Confinement: locks the current process into what a worker may touch, by the kernel's means alone.

`confine` is called in a fresh process before it does anything else, and cannot be undone, not even
by root:

  1. `no_new_privs`, and every capability is dropped (root could otherwise read raw memory, load
     modules or make a device file for the disk and read everything beneath the file system);
  2. Landlock: files outside the `read` and `write` sets cannot be opened, made, renamed, linked or
     removed; TCP is refused from ABI 4 on, and from ABI 6 on signals to and abstract sockets of
     processes outside;
  3. a seccomp filter (`syscall_filter`) for what Landlock does not govern: modes and owners of
     files, other sockets.

Processes that the worker starts inherit all of it. What stays visible is metadata: a path's
existence, size, mode and times (stat), and the command lines in /proc. The memory, environment and
open files of processes outside do not.

The kernel confines one thread, so `confine` insists on a process that has only one: call it before
importing numpy or JAX, which start their own. This module imports the standard library only.
"""

import ctypes
import dataclasses
import errno
import os
import platform
import site
import sys
from pathlib import Path

from aevo_jax.campaign.sandbox import syscall_filter

# System call numbers are the same on all architectures for calls this young.
_CREATE_RULESET = 444
_ADD_RULE = 445
_RESTRICT_SELF = 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522

# Access rights of linux/landlock.h, by bit: execute, write, read, list, rmdir, unlink, mknod
# (char), mkdir, create, bind a socket, mkfifo, mknod (block), symlink (ABI 1); rename or link
# across directories (2); truncate (3); device ioctl (5).
_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_MAKE_CHAR = 1 << 6
_MAKE_BLOCK = 1 << 11
_TRUNCATE = 1 << 14
_IOCTL_DEV = 1 << 15
# Since this ABI there are so many of them.
_BITS_BY_ABI = ((1, 13), (2, 14), (3, 15), (5, 16))
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP_BIND_AND_CONNECT = 0b11
_TCP_ABI = 4
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
_SCOPE_ABI = 6
# Before ABI 3 Landlock does not see truncation: a worker could empty any file that it may only
# read.
_LEAST_ABI = 3


class SandboxError(Exception):
  """The process was not confined."""


class SandboxUnavailableError(SandboxError):
  """This machine cannot confine a process; the message says what it lacks."""


@dataclasses.dataclass(frozen=True)
class Confinement:
  """What a worker may touch; everything else is refused.

  Attributes:
    read: files and directories (with all below) to read, list and execute.
    write: files and directories to read and write too. Device files cannot be made there.
    allow_tcp: whether TCP over IPv4 and IPv6 is allowed; no other socket ever is.
  """

  read: tuple[Path, ...]
  write: tuple[Path, ...]
  allow_tcp: bool = False


def landlock_abi() -> int:
  """Asks the kernel for its Landlock version.

  Returns:
    The ABI, 0 if the kernel has no Landlock or has it switched off.
  """
  version = _libc().syscall(
    _CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION)
  )
  return max(0, version)


@dataclasses.dataclass(frozen=True)
class Kernel:
  """What decides whether a kernel can confine a process; the running one's by default.

  Attributes:
    abi: its Landlock version, see `landlock_abi`.
    machine: the instruction set, as `platform.machine` names it.
  """

  abi: int = dataclasses.field(default_factory=landlock_abi)
  machine: str = dataclasses.field(default_factory=platform.machine)


def available(kernel: Kernel | None = None) -> tuple[bool, str]:
  """Finds out whether `confine` works.

  Args:
    kernel: of the machine that would confine; this one's if not given.

  Returns:
    Whether it does, and what it would cover, or what is missing and how to get it.
  """
  kernel = kernel or Kernel()
  abi = kernel.abi
  if not abi:
    return False, (
      'the kernel has no Landlock; boot Linux >= 6.2 with CONFIG_SECURITY_LANDLOCK=y and '
      'landlock in lsm= (kernel command line)'
    )
  if abi < _LEAST_ABI:
    return False, (
      f'Landlock ABI {abi} cannot stop truncation of read-only files (ABI {_LEAST_ABI}); '
      'boot Linux >= 6.2 with landlock in lsm='
    )
  if not syscall_filter.supported(kernel.machine):
    return False, (
      f'no system call table for {kernel.machine}; run on x86_64 or aarch64, or '
      'extend campaign/sandbox/syscall_filter.py'
    )
  signals = 'signals'
  if abi < _SCOPE_ABI:
    signals = f'but not signals to other processes of this user (ABI {_SCOPE_ABI}, Linux >= 6.12)'
  return True, f'Landlock ABI {abi}: files, sockets, {signals}'


def confine(confinement: Confinement, kernel: Kernel | None = None) -> None:
  """Confines the current process and all that it will start, irrevocably.

  Args:
    confinement: what it may touch; the paths exist.
    kernel: see `available`.

  Raises:
    SandboxUnavailableError: the machine lacks what is needed; nothing was confined, and nothing
      untrusted may run.
    SandboxError: the process has several threads (nothing was confined), or the kernel refused a
      step (end the process).
    FileNotFoundError: a path does not exist, naming it.
  """
  kernel = kernel or Kernel()
  usable, reason = available(kernel)
  if not usable:
    raise SandboxUnavailableError(f'cannot confine this process: {reason}')
  threads = len(os.listdir('/proc/self/task'))
  if threads != 1:
    raise SandboxError(
      f'confine() covers one thread and this process has {threads}; call it first, before '
      'importing numpy or jax'
    )
  all_rights = (1 << max(bits for since, bits in _BITS_BY_ABI if since <= kernel.abi)) - 1
  ruleset = _create_ruleset(kernel.abi, all_rights, confinement.allow_tcp)
  try:
    for path in confinement.read:
      _allow(ruleset, Path(path), _EXECUTE | _READ_FILE | _READ_DIR)
    for path in confinement.write:
      _allow(ruleset, Path(path), all_rights & ~(_MAKE_CHAR | _MAKE_BLOCK))
    _checked(
      _libc().prctl(
        _PR_SET_NO_NEW_PRIVS,
        ctypes.c_ulong(1),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
      ),
      'prctl(PR_SET_NO_NEW_PRIVS)',
    )
    _drop_capabilities()
    _checked(_libc().syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)), 'landlock_restrict_self')
  finally:
    os.close(ruleset)
  syscall_filter.apply(allow_tcp=confinement.allow_tcp)


def system_read_paths() -> tuple[Path, ...]:
  """Lists what Python, JAX, Grain, Orbax and TensorBoard read of this machine.

  Returns:
    The running environment and the Python beneath it, the system's libraries, and of /etc, /sys and
    /dev only named entries: /etc/shadow and the disk's device file are readable to root by mode.
    The code tree and the trial's inputs are to be added.
  """
  environment = [
    sys.prefix,
    sys.base_prefix,
    os.path.dirname(os.path.realpath(sys.executable)),
    *site.getsitepackages(),
  ]
  libraries = ['/usr', '/lib', '/lib64', '/bin']
  etc = [
    'ld.so.cache',
    'ld.so.conf',
    'ld.so.conf.d',
    'localtime',
    'timezone',
    'passwd',
    'group',
    'nsswitch.conf',
    'hosts',
    'host.conf',
    'os-release',
    'mime.types',
    'ssl',
    'fonts',
  ]
  kernel = [
    '/proc',
    '/sys/devices',
    '/sys/bus',
    '/sys/class',
    '/sys/fs/cgroup',
    '/sys/kernel/mm/transparent_hugepage',
    '/dev/urandom',
    '/dev/random',
  ]
  return _existing([*environment, *libraries, *(f'/etc/{name}' for name in etc), *kernel])


def system_write_paths() -> tuple[Path, ...]:
  """Lists the device files that a worker writes or controls.

  Returns:
    /dev/null, /dev/zero, and the accelerators'. /dev/shm is not among them, since it is one
    directory for the whole machine; a worker that shares memory between processes (Grain's, or
    multiprocessing's locks) gets it by being given `Path("/dev/shm")` in `write`.
  """
  accelerators = []
  for pattern in ('nvidia*', 'accel*', 'vfio'):
    accelerators += sorted(Path('/dev').glob(pattern))
  return _existing(['/dev/null', '/dev/zero', *accelerators])


def _existing(paths: list[str | Path]) -> tuple[Path, ...]:
  return tuple(dict.fromkeys(Path(path) for path in paths if os.path.exists(path)))


def _create_ruleset(abi: int, file_rights: int, allow_tcp: bool) -> int:
  # struct landlock_ruleset_attr; an older kernel accepts the longer one if its end is 0
  class _Ruleset(ctypes.Structure):
    _fields_ = [
      ('files', ctypes.c_uint64),
      ('network', ctypes.c_uint64),
      ('scoped', ctypes.c_uint64),
    ]

  network = 0
  if abi >= _TCP_ABI and not allow_tcp:
    network = _TCP_BIND_AND_CONNECT
  scoped = 0
  if abi >= _SCOPE_ABI:
    scoped = _ABSTRACT_SOCKETS_AND_SIGNALS
  attributes = _Ruleset(file_rights, network, scoped)
  result = _libc().syscall(
    _CREATE_RULESET,
    ctypes.byref(attributes),
    ctypes.c_size_t(ctypes.sizeof(attributes)),
    ctypes.c_uint32(0),
  )
  return _checked(result, 'landlock_create_ruleset')


def _allow(ruleset: int, path: Path, rights: int) -> None:
  class _PathBeneath(ctypes.Structure):  # struct landlock_path_beneath_attr
    _pack_ = 1
    _layout_ = 'ms'  # what _pack_ means, which Python 3.14 wants said
    _fields_ = [('rights', ctypes.c_uint64), ('parent', ctypes.c_int32)]

  try:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
  except FileNotFoundError:
    raise FileNotFoundError(
      errno.ENOENT,
      'a path to be allowed in the sandbox does not exist; make it first or leave it out',
      str(path),
    ) from None
  try:
    # The kernel refuses a rule that gives a plain file the rights of a directory.
    rule = _PathBeneath(rights if path.is_dir() else rights & _FILE_RIGHTS, descriptor)
    _checked(
      _libc().syscall(
        _ADD_RULE, ruleset, ctypes.c_int(_RULE_PATH_BENEATH), ctypes.byref(rule), ctypes.c_uint32(0)
      ),
      f'landlock_add_rule({path})',
    )
  finally:
    os.close(descriptor)


def _drop_capabilities() -> None:
  header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
  nothing = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, in two halves
  _checked(_libc().capset(ctypes.byref(header), ctypes.byref(nothing)), 'capset')


def _libc() -> ctypes.CDLL:
  return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, step: str) -> int:
  if result < 0:
    number = ctypes.get_errno()
    raise SandboxError(f'the kernel refused {step}: {os.strerror(number)} (see `aevo doctor`)')
  return result
