"""The seal: what the trusted controller records of a finished trial."""

import dataclasses
import json
import os
import pathlib

from safetensors.numpy import load_file

from aevo_jax.campaign.trial.spec import EXPORT, RESULT
from aevo_jax.checkpoint import digest as digest_lib

# status of a claim -> its fields and their types
_FIELDS = {
  'trained': {'steps': int, 'tokens': int, 'flops': int, 'seconds': dict},
  'refused': {'cause': str, 'message': str},
  'failed': {'cause': str, 'message': str},
}
_NAMES_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Seal:
  """A finished trial's files.

  Attributes:
    digest: of all files.
    export_file: SHA-256 of the exported weights' file.
    claim: the content of result.json, as the worker wrote it.
  """

  digest: str
  export_file: str
  claim: dict


class UnsealableError(ValueError):
  """The worker left no complete output, or one that is not what a worker writes."""


def read_claim(directory: pathlib.Path) -> dict:
  """Reads the worker's result.json and checks its form.

  A claim is data: a malformed one must not stop the controller.

  Args:
    directory: the trial's.

  Returns:
    The claim, with a known status and the fields that go with it.

  Raises:
    UnsealableError: not a JSON object with a known status, or with numbers that are not finite.
  """
  path = directory / RESULT
  try:
    claim = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
  except (ValueError, RecursionError) as error:
    raise UnsealableError(f'{path} cannot be read: {error}') from None
  if not _is_claim(claim):
    raise UnsealableError(
      f'{path} is not a claim: it needs a status of {sorted(_FIELDS)} and '
      'the fields that go with it'
    )
  return claim


def _refuse_constant(constant: str) -> None:
  raise ValueError(f'{constant} is not a finite number')


def _is_claim(claim: object) -> bool:
  if not isinstance(claim, dict) or not isinstance(claim.get('status'), str):
    return False
  fields = _FIELDS.get(claim['status'])
  if fields is None:
    return False
  return all(type(claim.get(name)) is expected for name, expected in fields.items())


def seal(directory: pathlib.Path) -> Seal:
  """Hashes a finished trial and makes it read-only.

  Args:
    directory: the trial's.

  Raises:
    UnsealableError: no result or no exported weights, or a malformed claim.
    ManifestError: the worker left links.
  """
  for name in (RESULT, EXPORT):
    if not (directory / name).is_file():
      raise UnsealableError(f'{directory} has no {name}; see its log.txt')
  claim = read_claim(directory)
  files = digest_lib.file_manifest(directory)
  for parent, _, names in os.walk(directory, topdown=False):
    for name in names:
      os.chmod(os.path.join(parent, name), 0o444)
  return Seal(digest_lib.manifest_digest(files), files[str(EXPORT)], claim)


def candidate_digest(directory: pathlib.Path, base_file: pathlib.Path) -> str:
  """Computes the candidate's identity from the exported file, and not from the worker's claim.

  Args:
    directory: the trial's.
    base_file: weights of the base, which have the same names, shapes and dtypes.

  Returns:
    The logical digest of the exported weights.

  Raises:
    UnsealableError: the weights are not of the base's model, so that no server could score them.
  """
  candidate = load_file(directory / EXPORT)
  base = load_file(base_file)
  differing = [
    name
    for name in sorted(candidate.keys() | base.keys())
    if _outline(candidate, name) != _outline(base, name)
  ]
  if differing:
    raise UnsealableError(
      f'the exported weights are not of the base model: {", ".join(differing[:_NAMES_SHOWN])}'
    )
  return digest_lib.logical_digest(candidate)


def _outline(arrays: dict, name: str) -> tuple | None:
  """Shape and dtype of an array, None where it is missing."""
  array = arrays.get(name)
  return None if array is None else (array.shape, array.dtype)
