"""The syscall filter: the part of a worker's confinement that Landlock has no rule for.

Landlock decides about opening, making, renaming and removing files, but not about their modes,
owners and extended attributes, nor about any socket that is not TCP. The seccomp filter refuses,
with EPERM:

  chmod, chown, setxattr  in all their spellings, everywhere, a worker's own directory included: a
                          filter sees numbers and descriptors, not paths, so it cannot tell one file
                          from another
  socket                  every family (UDP and so DNS, IPv6, vsock, netlink, unix sockets by path);
                          with TCP allowed, only IPv4 and IPv6 streams
  io_uring_setup          since its requests would pass beneath this filter

`socketpair` and pipes stay, for processes to talk to their own children. A consequence worth
knowing: `shutil.copy` fails in a worker, because it copies the mode; use `shutil.copyfile`.
"""

import ctypes
import errno
import platform
import socket
import struct
from collections.abc import Mapping
from typing import NamedTuple

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000

# Classic BPF: load a word at an absolute offset, compare with a constant, and with it, return.
_LOAD = 0x20
_JUMP_EQUAL = 0x15
_JUMP_SET = 0x45
_AND = 0x54
_RETURN = 0x06
# Offsets in struct seccomp_data; the arguments are 64 bits each, and these two are ints: the low
# half counts.
_NUMBER = 0
_ARCHITECTURE = 4
_ARGUMENT_0 = 16
_ARGUMENT_1 = 24
_X32_BIT = 0x40000000  # x86-64's second numbering of the same calls
_SOCKET_TYPE_MASK = 0xF  # without SOCK_CLOEXEC and SOCK_NONBLOCK


class _Machine(NamedTuple):
  """System calls of a machine, from the kernel's tables.

  Attributes:
    architecture: its AUDIT_ARCH value.
    socket: number of socket(2).
    refused: numbers of the refused calls.
  """

  architecture: int
  socket: int
  refused: Mapping[str, int]


_NEW_CALLS = {
  'fchmodat2': 452,
  'setxattrat': 463,
  'removexattrat': 466,
  'file_setattr': 469,
  'io_uring_setup': 425,
}
_MACHINES = {
  'x86_64': _Machine(
    0xC000003E,
    41,
    {
      'chmod': 90,
      'fchmod': 91,
      'fchmodat': 268,
      'chown': 92,
      'fchown': 93,
      'lchown': 94,
      'fchownat': 260,
      'setxattr': 188,
      'lsetxattr': 189,
      'fsetxattr': 190,
      'removexattr': 197,
      'lremovexattr': 198,
      'fremovexattr': 199,
      **_NEW_CALLS,
    },
  ),
  'aarch64': _Machine(
    0xC00000B7,
    198,
    {
      'fchmod': 52,
      'fchmodat': 53,
      'fchownat': 54,
      'fchown': 55,
      'setxattr': 5,
      'lsetxattr': 6,
      'fsetxattr': 7,
      'removexattr': 14,
      'lremovexattr': 15,
      'fremovexattr': 16,
      **_NEW_CALLS,
    },
  ),
}


def supported(machine: str) -> bool:
  """Tells whether a machine's system call numbers are known.

  Args:
    machine: its instruction set, as `platform.machine` names it.
  """
  return machine in _MACHINES


def apply(*, allow_tcp: bool) -> None:
  """Installs the filter for the calling thread and all its children, for good.

  `no_new_privs` must be set before.

  Args:
    allow_tcp: whether streams over IPv4 and IPv6 are allowed.

  Raises:
    OSError: the kernel refuses.
    KeyError: the machine is not supported.
  """
  program = _program(platform.machine(), allow_tcp)
  code = ctypes.create_string_buffer(b''.join(program), 8 * len(program))

  class _Program(ctypes.Structure):  # struct sock_fprog
    _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_void_p)]

  libc = ctypes.CDLL(None, use_errno=True)
  argument = _Program(len(program), ctypes.addressof(code))
  if libc.prctl(
    ctypes.c_int(_PR_SET_SECCOMP),
    ctypes.c_ulong(_SECCOMP_MODE_FILTER),
    ctypes.byref(argument),
    ctypes.c_ulong(0),
    ctypes.c_ulong(0),
  ):
    raise OSError(
      ctypes.get_errno(), 'the kernel refused the seccomp filter; it needs CONFIG_SECCOMP_FILTER=y'
    )


def _program(name: str, allow_tcp: bool) -> list[bytes]:
  machine = _MACHINES[name]
  deny = _instruction(_RETURN, _RET_ERRNO | errno.EPERM)
  allow = _instruction(_RETURN, _RET_ALLOW)
  # A process may enter the kernel by another architecture's gate (int 0x80), where the numbers mean
  # other calls.
  program = [
    _instruction(_LOAD, _ARCHITECTURE),
    _instruction(_JUMP_EQUAL, machine.architecture, if_true=1),
    deny,
  ]
  program += [_instruction(_LOAD, _NUMBER), _instruction(_JUMP_SET, _X32_BIT, if_false=1), deny]
  for number in sorted(machine.refused.values()):
    program += [_instruction(_JUMP_EQUAL, number, if_false=1), deny]
  program += [_instruction(_JUMP_EQUAL, machine.socket, if_true=1), allow]
  if allow_tcp:
    program += [_instruction(_LOAD, _ARGUMENT_1), _instruction(_AND, _SOCKET_TYPE_MASK)]
    program += [
      _instruction(_JUMP_EQUAL, socket.SOCK_STREAM, if_true=1),
      deny,
      _instruction(_LOAD, _ARGUMENT_0),
    ]
    for family in (socket.AF_INET, socket.AF_INET6):
      program += [_instruction(_JUMP_EQUAL, family, if_false=1), allow]
  return [*program, deny]


def _instruction(code: int, constant: int, if_true: int = 0, if_false: int = 0) -> bytes:
  return struct.pack('=HBBI', code, if_true, if_false, constant)  # struct sock_filter
