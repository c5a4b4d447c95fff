"""Tensors of a safetensors file that is read once, and of no other than the one announced.

This runs inside vLLM's environment, not here.
"""

import hashlib

import safetensors
import safetensors.torch
import torch

HEAD = 'lm_head.weight'
EMBEDDING = 'model.embed_tokens.weight'


class RefusedError(ValueError):
  """Not the file that was announced, or none that can be read; nothing was done with it."""


def read(path: str, sha256: str) -> dict[str, torch.Tensor]:
  """Reads all tensors, of the very bytes that were hashed.

  Args:
    path: of the file.
    sha256: that it must have, in hex.

  Returns:
    Tensors by name, sorted. With tied embeddings the head is a tensor of its own: vLLM reloads such
    a one, and none that it ties.

  Raises:
    RefusedError: another digest, or bytes that are no safetensors file from end to end.
    OSError: no such file.
  """
  with open(path, 'rb') as file:
    content = file.read()
  digest = hashlib.sha256(content).hexdigest()
  if digest != sha256:
    raise RefusedError(f'{path} has SHA-256 {digest}, announced was {sha256}: nothing was loaded')
  try:
    tensors = dict(sorted(safetensors.torch.load(content).items()))  # which come in no order
  except safetensors.SafetensorError as error:
    raise RefusedError(
      f'{path} is no whole safetensors file ({error}): nothing was loaded'
    ) from error
  if not tensors:
    raise RefusedError(f'{path} is a safetensors file without tensors: nothing was loaded')
  if HEAD not in tensors and EMBEDDING in tensors:
    tensors[HEAD] = tensors[EMBEDDING]
  return tensors
