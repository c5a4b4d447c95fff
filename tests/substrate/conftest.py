"""The checkpoint that tests of import and export start from."""

from types import SimpleNamespace

import pytest
from hf_checkpoints import BF16, SMALL, tensors_of, write


@pytest.fixture
def checkpoint(tmp_path):
  """A checkpoint in three shards, old names, and its tensors."""
  tensors = tensors_of(SMALL, backbone=True, per_expert=True, mtp=True, dtypes=(BF16,))
  return SimpleNamespace(
    path=write(tmp_path / 'in', SMALL, tensors, shards=3), tensors=tensors, out=tmp_path / 'base'
  )
