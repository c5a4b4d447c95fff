"""The split of a rule, which follows from a hash of its key.

    u = sha256(key) / 2^256:   [0, .60) train   [.60, .75) dev   [.75, 1) private
    private, with the arbiter's secret s:   HMAC-SHA256(s, key) even -> external, odd -> final

Keys name rules (or rule and query where a family has too few rules), so no rule crosses from one
split to another. A worker can tell that a rule is private but neither on which side of the private
region it lies nor which items the arbiter samples there.

A campaign without an external target shows a public half of the private region to its probes
('probe', another hash of the key). Its final set then keeps to rules of the other half ('fresh'),
so that what was selected by probes is not measured by them.
"""

import hashlib
import hmac

TRAIN_END = 0.60
DEV_END = 0.75
PUBLIC_SPLITS = ('train', 'dev', 'private', 'probe')
PRIVATE_SPLITS = ('external', 'final', 'fresh')


def public_split(key: str) -> str:
  """Returns the region that everyone can compute.

  Args:
    key: a split key, see `item.Puzzle.key`.

  Returns:
    'train', 'dev' or 'private'.
  """
  u = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], 'big') / 2.0**64
  if u < TRAIN_END:
    return 'train'
  return 'dev' if u < DEV_END else 'private'


def split_of(key: str, secret: bytes | None = None) -> str:
  """Returns the split of a key.

  Args:
    key: a split key.
    secret: the arbiter's, which resolves the private region; None leaves it undivided.

  Returns:
    'train', 'dev', and 'private' without secret, 'external' or 'final' with it.
  """
  split = public_split(key)
  if split != 'private' or secret is None:
    return split
  return PRIVATE_SPLITS[hmac.digest(secret, key.encode(), 'sha256')[-1] & 1]


def belongs(key: str, split: str, secret: bytes | None = None) -> bool:
  """Tells whether a key may occur in a split.

  Args:
    key: a split key.
    split: one of `split_of`, or 'probe' or 'fresh', which lie inside 'private' and 'final'.
    secret: the arbiter's; without it nothing belongs to 'external', 'final' or 'fresh'.

  Returns:
    True where an item with this key is one of the split.
  """
  if split not in ('probe', 'fresh'):
    return split_of(key, secret) == split
  probed = bool(hashlib.sha256(f'probe|{key}'.encode()).digest()[0] & 1)
  if split == 'probe':
    return public_split(key) == 'private' and probed
  return split_of(key, secret) == 'final' and not probed
