"""Sealing: what the trusted controller records of a finished trial."""

import dataclasses
import json
import os
import pathlib

from aevo_jax.campaign.trial import EXPORT, RESULT
from aevo_jax.checkpoint import digest as digest_lib


@dataclasses.dataclass(frozen=True)
class Seal:
  """digest: of all files. export_file: SHA-256 of the exported weights' file. claim: the worker's own result.json."""

  digest: str
  export_file: str
  claim: dict


class UnsealableError(ValueError):
  """The worker left no complete output."""


def seal(directory: pathlib.Path) -> Seal:
  """Hashes a finished trial and makes it read-only.

  Raises:
    UnsealableError: no result or no exported weights. ManifestError: the worker left links.
  """
  for name in (RESULT, EXPORT):
    if not (directory / name).is_file():
      raise UnsealableError(f'{directory} has no {name}; see its log.txt')
  files = digest_lib.file_manifest(directory)
  for parent, _, names in os.walk(directory, topdown=False):
    for name in names:
      os.chmod(os.path.join(parent, name), 0o444)
  return Seal(digest_lib.manifest_digest(files), files[str(EXPORT)], json.loads((directory / RESULT).read_text()))
