"""The filter's program, run by an independent reading of BPF: what each machine's numbers get, also
on machines not at hand.
"""

import ctypes
import socket

import pytest

from aevo_jax.campaign.sandbox import syscall_filter


def decide(program, number, arguments=(0, 0), architecture=0xC000003E):
  """An independent reading of classic BPF (the few instructions of a seccomp filter)."""
  memory = ctypes.create_string_buffer(64)
  memory[0:4], memory[4:8] = number.to_bytes(4, 'little'), architecture.to_bytes(4, 'little')
  memory[16:24], memory[24:32] = (value.to_bytes(8, 'little') for value in arguments)
  position, register = 0, 0
  while True:
    text = program[position]
    code, if_true, if_false, constant = (
      int.from_bytes(text[:2], 'little'),
      text[2],
      text[3],
      int.from_bytes(text[4:], 'little'),
    )
    position += 1
    if code == 0x06:  # BPF_RET | BPF_K
      return 'allow' if constant == 0x7FFF0000 else 'deny'
    if code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
      register = int.from_bytes(memory.raw[constant : constant + 4], 'little')
    elif code == 0x54:  # BPF_ALU | BPF_AND | BPF_K
      register &= constant
    elif code in (0x15, 0x45):  # BPF_JMP | BPF_JEQ and BPF_JSET
      position += (
        if_true if (register == constant if code == 0x15 else register & constant) else if_false
      )
    else:
      raise AssertionError(f'unexpected instruction {code:#x}')


@pytest.mark.parametrize(
  ('machine', 'architecture', 'denied', 'allowed'),
  # numbers from the kernel's arch/x86/entry/syscalls/syscall_64.tbl and
  # include/uapi/asm-generic/unistd.h
  [
    (
      'x86_64',
      0xC000003E,
      {
        'chmod': 90,
        'fchmod': 91,
        'fchownat': 260,
        'fchmodat2': 452,
        'setxattr': 188,
        'io_uring_setup': 425,
        'socket': 41,
      },
      {'read': 0, 'openat': 257, 'socketpair': 53, 'clone': 56},
    ),
    (
      'aarch64',
      0xC00000B7,
      {'fchmod': 52, 'fchmodat': 53, 'fchown': 55, 'setxattr': 5, 'socket': 198},
      {'read': 63, 'openat': 56, 'socketpair': 199, 'clone': 220},
    ),
  ],
)
def test_filter_program(machine, architecture, denied, allowed):
  closed = syscall_filter._program(machine, allow_tcp=False)
  opened = syscall_filter._program(machine, allow_tcp=True)
  for program in (closed, opened):
    assert all(
      decide(program, number, architecture=architecture) == 'deny' for number in denied.values()
    )
    assert all(
      decide(program, number, architecture=architecture) == 'allow' for number in allowed.values()
    )
    assert all(
      decide(program, number, architecture=0x40000003) == 'deny' for number in allowed.values()
    )  # i386's gate
  assert (
    decide(
      opened,
      denied['socket'],
      (socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_CLOEXEC),
      architecture,
    )
    == 'allow'
  )
  assert (
    decide(opened, denied['socket'], (socket.AF_INET, socket.SOCK_DGRAM), architecture) == 'deny'
  )
  assert (
    decide(opened, denied['socket'], (socket.AF_UNIX, socket.SOCK_STREAM), architecture) == 'deny'
  )
  if machine == 'x86_64':
    assert decide(opened, 0x40000000 | 90) == 'deny'
