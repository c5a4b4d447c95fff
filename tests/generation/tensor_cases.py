"""For tests, inside vLLM's environment: files of safetensors that are taken whole or not at all.

As a program it writes each case to the path that it is given, and prints a line for each refusal.
"""

import hashlib
import json
import pathlib
import struct
import sys

import aevo_tensors
import torch

PATH = pathlib.Path(sys.argv[1])


def write(header, data, digest=None):
  """Writes a file; returns its digest, or the one that is announced in its place."""
  if not isinstance(header, bytes):
    header = json.dumps(header).encode()
  content = struct.pack('<Q', len(header)) + header + data
  PATH.write_bytes(content)
  return digest or hashlib.sha256(content).hexdigest()


def row(dtype, shape, *offsets):
  return {'dtype': dtype, 'shape': shape, 'data_offsets': offsets}


WHOLE = {
  '__metadata__': {'format': 'pt'},
  'b': row('BF16', [2], 8, 12),
  'model.embed_tokens.weight': row('F32', [1, 2], 0, 8),
  'none': row('F32', [0, 3], 12, 12),
}
DATA = struct.pack('<2f', 1, 2) + struct.pack('<2H', 0x3F80, 0x4000)
REFUSED = (
  (WHOLE, DATA, 'f' * 64),
  (WHOLE, DATA[:-2]),
  (WHOLE, DATA + b'xx'),
  (b'{', DATA),
  (b'[]', DATA),
  ({}, b''),
  ({'a': row('F32', [2], 0, 8), 'b': row('F32', [2], 4, 12)}, DATA),
  ({'a': row('F32', [2], 4, 12)}, DATA),
  ({'a': row('F32', [-3], 0, 12)}, DATA),
  ({'a': {}}, DATA),
)


def main():
  tensors = aevo_tensors.read(str(PATH), write(WHOLE, DATA))
  assert list(tensors) == ['b', 'model.embed_tokens.weight', 'none', 'lm_head.weight'], tensors
  assert tensors['lm_head.weight'].tolist() == [[1, 2]]
  assert tensors['b'].tolist() == [1, 2]
  assert tensors['b'].dtype == torch.bfloat16
  assert tuple(tensors['none'].shape) == (0, 3)
  for case in REFUSED:
    digest = write(*case)
    try:
      aevo_tensors.read(str(PATH), digest)
    except aevo_tensors.RefusedError as error:
      print(error)
    else:
      raise SystemExit(f'{case} was taken')


if __name__ == '__main__':
  main()
