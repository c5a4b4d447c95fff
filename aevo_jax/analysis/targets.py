"""Devices to compile for that are not there: NVIDIA H200s and TPUs, by XLA's own compilers.

    h200x8        8 GPUs of one host
    h200x64       8 hosts of 8 GPUs
    v5p:2x2x2     a TPU slice, in libtpu's words
    cpux8         8 simulated devices of this machine's CPU

`make targets` installs the compilers. Autotuning and cuDNN want a device, so the choice of kernels
may differ on a real one; memory, collectives and what fails to lower do not depend on it.
"""

import dataclasses
import importlib.util
import logging
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

GPUS_OF_A_HOST = 8
_INSTALLED = pathlib.Path('third_party') / 'targets' / '.venv'
_FORMS = re.compile(r'(?P<kind>h200|cpu)x(?P<count>[1-9]\d*)|(?P<slice>v\d+\w*:\d+(x\d+)+)')
# The plugin of each kind of device, as a module.
_COMPILERS = {'h200': 'jax_plugins.xla_cuda13', 'tpu': 'libtpu'}
_ENVIRONMENT = {
  'h200': {'JAX_SKIP_CUDA_CONSTRAINTS_CHECK': '1'},
  # Nobody is asked what machine this is.
  'tpu': {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'none',
  },
  'cpu': {},
}
_XLA_FLAGS = {'h200': '--xla_gpu_autotune_level=0', 'tpu': '', 'cpu': ''}


class TargetError(ValueError):
  """A target that is none, or whose compiler is not installed."""


@dataclasses.dataclass(frozen=True)
class Target:
  """Devices to compile for.

  Attributes:
    name: as it was asked for.
    kind: 'h200', 'tpu' or 'cpu'.
    devices: how many there are.
  """

  name: str
  kind: str
  devices: int

  @property
  def platform(self) -> str:
    """'cpu', 'gpu' or 'tpu'."""
    return 'gpu' if self.kind == 'h200' else self.kind

  @property
  def hardware(self) -> str:
    """The name of the file in configs/hardware that describes a device."""
    return self.name.partition(':')[0] if self.kind == 'tpu' else self.kind


def parse(name: str) -> Target:
  """Reads a target's name.

  Args:
    name: e.g. 'h200x8', 'v5p:2x2x2', 'cpux8'.

  Returns:
    The target.

  Raises:
    TargetError: the name is none, or asks for GPUs that fill no hosts.
  """
  read = _FORMS.fullmatch(name)
  if read is None:
    raise TargetError(
      f'{name!r} is no target; name GPUs as h200x8, a TPU slice as v5p:2x2x2, or simulated '
      'devices as cpux8'
    )
  if read['slice']:
    count = 1
    for side in name.partition(':')[2].split('x'):
      count *= int(side)
    return Target(name, 'tpu', count)
  count = int(read['count'])
  if read['kind'] == 'h200' and count > GPUS_OF_A_HOST and count % GPUS_OF_A_HOST:
    raise TargetError(
      f'{name!r}: hosts have {GPUS_OF_A_HOST} GPUs each, so more than that are a multiple of '
      f'{GPUS_OF_A_HOST}'
    )
  return Target(name, read['kind'], count)


def prepare(target: Target, root: pathlib.Path | None) -> None:
  """Makes this process able to compile for a target; call it before JAX is imported.

  Args:
    target: to compile for.
    root: the checkout, where `make targets` has installed the compilers; None in an installed
      wheel, whose own environment then must have them.

  Raises:
    TargetError: the target's compiler is not installed.
    RuntimeError: JAX has been imported already.
  """
  if 'jax' in sys.modules:
    raise RuntimeError('a target is prepared before JAX is imported')
  os.environ |= _ENVIRONMENT[target.kind]
  flags = [os.environ.get('XLA_FLAGS', ''), _XLA_FLAGS[target.kind]]
  if target.kind == 'cpu':
    flags.append(f'--xla_force_host_platform_device_count={target.devices}')
    # By default the CPU compiler orders a program for concurrency and lets memory grow;
    # accelerators' compilers order it for memory.
    flags.append('--xla_cpu_enable_concurrency_optimized_scheduler=false')
  os.environ['XLA_FLAGS'] = ' '.join(filter(None, flags))
  # tokamax warns of every kernel that nobody has timed on a device; nobody can here.
  logging.getLogger('absl').addFilter(
    lambda record: not record.getMessage().startswith('Autotuning cache miss')
  )
  # Arrays of this process, if any, lie on its CPU.
  os.environ['JAX_PLATFORMS'] = 'cpu'
  # The compiler is to say what it does, not to be passed over.
  os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
  compiler = _COMPILERS.get(target.kind)
  if compiler is None or _is_there(compiler):
    return
  if root is not None:
    version = f'python{sys.version_info.major}.{sys.version_info.minor}'
    sys.path.append(str(root / _INSTALLED / 'lib' / version / 'site-packages'))  # behind our own
  if not _is_there(compiler):
    raise TargetError(
      f'the compiler for {target.name} is not installed; make targets installs it into {_INSTALLED}'
    )


def _is_there(module: str) -> bool:
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError:
    return False


def devices(target: Target) -> Sequence[Any]:
  """Returns the target's devices, in a process that was prepared for it.

  Args:
    target: to compile for.

  Returns:
    Devices for a mesh. But for 'cpu' none of them can hold an array.

  Raises:
    TargetError: the compiler knows no such devices.
  """
  # JAX is imported by whoever has prepared the process for it.
  import jax  # noqa: PLC0415
  from jax.experimental import topologies  # noqa: PLC0415

  if target.kind == 'cpu':
    return jax.devices('cpu')[: target.devices]
  try:
    if target.kind == 'h200':
      hosts = max(1, target.devices // GPUS_OF_A_HOST)
      description = (pathlib.Path(__file__).parent / 'h200.txtpb').read_text()
      return topologies.get_topology_desc(
        '',
        platform='cuda',
        target_config=description,
        topology=f'1x{hosts}x{target.devices // hosts}',
      ).devices
    return topologies.get_topology_desc(topology_name=target.name, platform='tpu').devices
  except Exception as error:
    raise TargetError(f'no devices {target.name}: {error}') from error
