"""The platform that a program is traced for, by which layers choose their kernels."""

from jax.extend import backend


def target_platform() -> str:
  """Returns the platform of the default device: 'cpu', 'gpu' or 'tpu'.

  Whoever traces for devices that are not there makes one of them the default, by
  `jax.default_device`.
  """
  return backend.get_default_device().platform
