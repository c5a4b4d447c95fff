"""Sealing: what the trusted controller records of a finished trial."""

import dataclasses
import json
import os
import pathlib

from aevo_jax.campaign.trial.spec import EXPORT, RESULT
from aevo_jax.checkpoint import digest as digest_lib


@dataclasses.dataclass(frozen=True)
class Seal:
  """digest: of all files. export_file: SHA-256 of the exported weights' file. claim: the worker's
  own result.json.
  """

  digest: str
  export_file: str
  claim: dict


class UnsealableError(ValueError):
  """The worker left no complete output, or one that is not what a worker writes."""


def read_claim(directory: pathlib.Path) -> dict:
  """The worker's result.json, as far as its form goes: a claim is data, and a malformed one must
  not stop the controller.

  Raises:
    UnsealableError: not a JSON object with a known status, or with numbers that are not finite.
  """

  def refuse(constant: str):
    raise ValueError(f'{constant} is not a finite number')

  try:
    claim = json.loads((directory / RESULT).read_bytes(), parse_constant=refuse)
  except (ValueError, RecursionError) as error:
    raise UnsealableError(f'{directory / RESULT} cannot be read: {error}') from None
  needed = {
    'trained': {'steps': int, 'tokens': int, 'flops': int, 'seconds': dict},
    'refused': {'cause': str, 'message': str},
    'failed': {'cause': str, 'message': str},
  }
  fields = (
    needed.get(claim.get('status'))
    if isinstance(claim, dict) and isinstance(claim.get('status'), str)
    else None
  )
  if fields is None or any(type(claim.get(name)) is not kind for name, kind in fields.items()):
    raise UnsealableError(
      f'{directory / RESULT} is not a claim: it needs a status of {sorted(needed)} and '
      'the fields that go with it'
    )
  return claim


def seal(directory: pathlib.Path) -> Seal:
  """Hashes a finished trial and makes it read-only.

  Raises:
    UnsealableError: no result or no exported weights, or a malformed claim. ManifestError: the
      worker left links.
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
