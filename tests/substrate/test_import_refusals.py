"""What an import or export refuses, and what it says."""

import json
import re
import shutil

import numpy as np
import pytest
from hf_checkpoints import BF16, SMALL, write
from safetensors.numpy import save_file

from aevo_jax.models.hf import stream
from aevo_jax.substrate import hf_export, hf_import, transfer


def fail(checkpoint, expected=stream.CheckpointError) -> str:
  """The message with which an import is refused, and nothing left."""
  with pytest.raises(expected) as error:
    hf_import.import_hf(checkpoint.path, checkpoint.out)
  assert [p for p in checkpoint.out.parent.iterdir() if 'base' in p.name] == []
  return str(error.value)


def index(checkpoint) -> dict[str, str]:
  return json.loads((checkpoint.path / 'model.safetensors.index.json').read_text())['weight_map']


def test_all_that_does_not_fit_is_in_one_message(checkpoint, tmp_path):
  t = dict(checkpoint.tensors)
  del t['backbone.layers.2.mixer.q_proj.weight']
  t['backbone.layers.2.mixer.q_proj.bias'] = np.zeros(12, BF16)
  t['backbone.layers.1.mixer.experts.1.up_proj.weight'] = np.zeros((8, 5), BF16)  # not transposed
  t['lm_head.weight'] = np.zeros((19, 8), np.int32)
  t['mtpx.weight'] = np.zeros(3, np.float32)
  t |= {f'model.surprise.{i}': np.zeros(1, BF16) for i in range(20)}
  checkpoint.path = write(tmp_path / 'wrong', SMALL, t)
  message = fail(checkpoint)
  for part in (
    str(tmp_path / 'wrong'),
    'missing model.layers.2.mixer.q_proj.weight',
    'unexpected backbone.layers.2.mixer.q_proj.bias',
    'and 13 more (25 in all)',
  ):
    assert part in message, message
  for name in [n for n in t if 'surprise' in n]:
    del t[name]
  checkpoint.path = write(tmp_path / 'fewer', SMALL, t)
  message = fail(checkpoint)
  for part in (
    'backbone.layers.1.mixer.experts.1.up_proj.weight has shape (8, 5) where (5, 8)',
    'lm_head.weight has dtype I32 where one of F32, BF16, F16',
    'unexpected mtpx.weight',
  ):
    assert part in message, message
  assert 'more' not in message


def test_experts_that_lack_or_differ_in_dtype(checkpoint, tmp_path):
  t = dict(checkpoint.tensors)
  del t['backbone.layers.1.mixer.experts.2.up_proj.weight']
  t['backbone.layers.1.mixer.experts.1.down_proj.weight'] = t[
    'backbone.layers.1.mixer.experts.1.down_proj.weight'
  ].astype(np.float32)
  checkpoint.path = write(tmp_path / 'wrong', SMALL, t)
  message = fail(checkpoint)
  assert 'model.layers.1.mixer.experts.up_proj has 2 experts where 3 are needed' in message
  assert "model.layers.1.mixer.experts.down_proj has experts of dtypes ['BF16', 'F32']" in message


def test_files_that_are_missing_damaged_or_do_not_fit_the_index(checkpoint):
  shard = checkpoint.path / 'model-00002-of-00003.safetensors'
  data = shard.read_bytes()
  for wrong in (data[:-1], data[:20], b''):
    shard.write_bytes(wrong)
    message = fail(checkpoint)
    assert str(shard) in message and 'truncated' in message and 'download it again' in message
  shard.unlink()
  message = fail(checkpoint)
  assert 'lacks 1 of the 3 shards' in message and shard.name in message
  moved = next(name for name, file in index(checkpoint).items() if file == shard.name)
  tensors = {
    name: checkpoint.tensors[name]
    for name, file in index(checkpoint).items()
    if file == shard.name and name != moved
  }
  save_file(tensors | {'new': np.zeros(1, BF16)}, shard)
  message = fail(checkpoint)
  assert (
    f'absent {moved} (in {shard.name})' in message
    and f'not in the index new (in {shard.name})' in message
  )
  (checkpoint.path / 'model.safetensors.index.json').write_text(
    '{"weight_map": {"a": "../other/model.safetensors"}}'
  )
  assert 'must name files beside it' in fail(checkpoint)
  (checkpoint.path / 'model.safetensors.index.json').write_text('{"weight')
  assert 'is no index of shards' in fail(checkpoint)
  (checkpoint.path / 'model.safetensors.index.json').unlink()
  assert 'holds neither model.safetensors nor' in fail(checkpoint)
  (checkpoint.path / 'pytorch_model.bin').write_bytes(b'\x80\x04.')
  assert 'pickle only (pytorch_model.bin), which can run code' in fail(checkpoint)
  (checkpoint.path / 'config.json').write_text('{')
  assert 'config.json is no JSON' in fail(checkpoint)
  (checkpoint.path / 'config.json').unlink()
  assert 'has no config.json' in fail(checkpoint)


def beyond_the_disk(checkpoint) -> None:
  """Adds a tensor that is larger than this disk, in a file that takes none of it."""
  size = shutil.disk_usage(checkpoint.path).total
  header = json.dumps({'mtp.huge': {'dtype': 'U8', 'shape': [size], 'data_offsets': [0, size]}})
  with (checkpoint.path / 'model-huge.safetensors').open('wb') as file:
    file.write(len(header).to_bytes(8, 'little') + header.encode())
    file.truncate(file.tell() + size)
  weight_map = index(checkpoint) | {'mtp.huge': 'model-huge.safetensors'}
  (checkpoint.path / 'model.safetensors.index.json').write_text(
    json.dumps({'weight_map': weight_map})
  )


def test_an_existing_directory_and_a_full_disk_are_refused(checkpoint, tmp_path):
  whole = (checkpoint.path / 'model.safetensors.index.json').read_bytes()
  beyond_the_disk(checkpoint)
  message = fail(checkpoint, transfer.TransferError)
  assert re.search(
    r'needs [\d,.]+ MB and .* has [\d,.]+ MB free; free space, or choose an --out on another disk',
    message,
  )
  (checkpoint.path / 'model.safetensors.index.json').write_bytes(whole)
  (checkpoint.path / 'model-huge.safetensors').unlink()
  hf_import.import_hf(checkpoint.path, checkpoint.out)
  before = (checkpoint.out / 'source.json').read_bytes()
  with pytest.raises(transfer.TransferError, match='base exists; choose another --out'):
    hf_import.import_hf(checkpoint.path, checkpoint.out)
  assert (checkpoint.out / 'source.json').read_bytes() == before
  with pytest.raises(transfer.TransferError, match='base exists'):
    hf_export.export_hf(checkpoint.out, checkpoint.out)
  with pytest.raises(transfer.TransferError, match='is not a base that `aevo import_hf` made'):
    hf_export.export_hf(checkpoint.path, tmp_path / 'out', params={})
  with pytest.raises(transfer.TransferError, match=r'5G is no size.*such as 5GB'):
    hf_export.parse_size('5G')
  assert [hf_export.parse_size(text) for text in ('5GB', '1.5mb')] == [5 * 10**9, 1_500_000]
