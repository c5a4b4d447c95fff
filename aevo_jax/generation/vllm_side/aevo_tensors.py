"""Runs inside vLLM's environment, not here: the tensors of a safetensors file that is read once, and of no other than the one announced."""

import hashlib
import json
import math
import os

import torch

HEAD, EMBEDDING = 'lm_head.weight', 'model.embed_tokens.weight'
_DTYPES = {'F64': torch.float64, 'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16}


class RefusedError(ValueError):
  """Not the file that was announced, or none that can be read; nothing was done with it."""


def read(path: str, sha256: str) -> dict[str, torch.Tensor]:
  """All tensors by name, in the memory that was read and hashed, in the order of the file. With tied embeddings the head is a tensor of its own: vLLM reloads such a one, and none that it ties.

  Raises:
    RefusedError: another digest, or bytes that are no tensors from end to end. OSError: no such file.
  """
  with open(path, 'rb') as file:
    content = bytearray(os.fstat(file.fileno()).st_size)
    if file.readinto(content) != len(content) or file.read(1):
      raise RefusedError(f'{path} changed while it was read: nothing was loaded')
  found = hashlib.sha256(content).hexdigest()
  if found != sha256:
    raise RefusedError(f'{path} has SHA-256 {found}, announced was {sha256}: nothing was loaded')
  try:
    begin = 8 + int.from_bytes(content[:8], 'little')
    rows = sorted(((name, row) for name, row in json.loads(content[8:begin]).items() if name != '__metadata__'), key=lambda item: item[1]['data_offsets'])
    tensors, at = {}, begin
    for name, row in rows:
      dtype, shape, (start, end) = _DTYPES[row['dtype']], row['shape'], row['data_offsets']
      count = math.prod(shape)
      if begin + start != at or end - start != count * dtype.itemsize or begin + end > len(content):
        raise ValueError(f'{name} is not whole')
      tensors[name], at = torch.frombuffer(content, dtype=dtype, count=count, offset=at).view(shape) if count else torch.empty(shape, dtype=dtype), begin + end
    if at != len(content) or not tensors:
      raise ValueError(f'{len(content) - at} bytes are no tensor\'s')
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise RefusedError(f'{path} is no whole safetensors file ({type(error).__name__}: {error}): nothing was loaded') from error
  if HEAD not in tensors and EMBEDDING in tensors:
    tensors[HEAD] = tensors[EMBEDDING]
  return tensors
