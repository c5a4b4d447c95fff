"""Which split a rule belongs to: by a public hash for train, dev and the private region, by the
arbiter's secret inside that region.

    u = sha256(key) / 2^256:   [0, .60) train   [.60, .75) dev   [.75, 1) private
    private, with the arbiter's secret s:   HMAC-SHA256(s, key) even -> external, odd -> final

Keys name rules (or rule and query where a family has too few rules), so no rule crosses from one
split to another. A worker can tell that a rule is private but neither on which side of the private
region it lies nor which items the arbiter draws there.

A campaign without an external target shows a public half of the private region to its probes
('probe', another hash of the key); its final set then keeps to rules of the other half ('fresh'),
so that what was selected by probes is not measured by them.
"""

import hashlib
import hmac

TRAIN_END, DEV_END = 0.60, 0.75
PUBLIC_SPLITS = ('train', 'dev', 'private', 'probe')
PRIVATE_SPLITS = ('external', 'final', 'fresh')


def public_split(key: str) -> str:
  """'train', 'dev' or 'private' for a split key."""
  u = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], 'big') / 2.0**64
  return 'train' if u < TRAIN_END else 'dev' if u < DEV_END else 'private'


def split_of(key: str, secret: bytes | None = None) -> str:
  """As `public_split`, with the private region resolved into 'external' and 'final' where the
  secret is known.
  """
  split = public_split(key)
  if split != 'private' or secret is None:
    return split
  return PRIVATE_SPLITS[hmac.digest(secret, key.encode(), 'sha256')[-1] & 1]


def belongs(key: str, split: str, secret: bytes | None = None) -> bool:
  """Whether a key may be asked in a split: one of `split_of`, or 'probe' or 'fresh', which lie
  inside 'private' and 'final'.
  """
  if split in ('probe', 'fresh'):
    probed = bool(hashlib.sha256(f'probe|{key}'.encode()).digest()[0] & 1)
    return (
      public_split(key) == 'private' and probed
      if split == 'probe'
      else split_of(key, secret) == 'final' and not probed
    )
  return split_of(key, secret) == split
