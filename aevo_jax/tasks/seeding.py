"""Random generators that follow from a seed and from what is sampled with them."""

import hashlib
import random


def generator(seed: int | bytes, *parts: str | int) -> random.Random:
  """Makes the generator of one sample: the first 128 bits of SHA-256('seed|part|part...') seed it.

  Args:
    seed: an integer, or secret bytes, which count as their hexadecimal text.
    *parts: what tells this sample from the others of the same seed, such as split and index.

  Returns:
    A generator that is the same in every process and on every machine.
  """
  first = seed.hex() if isinstance(seed, bytes) else str(seed)
  material = '|'.join([first, *[str(part) for part in parts]])
  return random.Random(int.from_bytes(hashlib.sha256(material.encode()).digest()[:16], 'big'))
