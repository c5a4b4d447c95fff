"""A directory that is given for a base and is none is named, with what to give in its place."""

import pytest

from aevo_jax.models.hf import checkpoint, stream

# (files that lie there, what is said of it)
DIRECTORIES = [
  (('train.json', 'export/config.json'), 'is a run of `aevo train`.*; give .*/given/export$'),
  (('train.json',), 'is a run of `aevo train`; write .*: aevo export_hf .*/given --out=DIRECTORY$'),
  (('pretrain_run.json',), 'is a run of `aevo pretrain`; write .* aevo export_hf'),
  (('manifest.json', 'recipe.gin', 'base/config.json'), 'is a substrate.*; give .*/given/base$'),
  (('ledger.jsonl',), 'is a run of `aevo campaign`; write its weights .* aevo export_hf'),
  (('spec.json', 'export/model.safetensors'), 'is a trial of a campaign; write .* aevo export_hf'),
  (('adapter_config.json',), 'is a LoRA adapter; merge it into its base .* aevo export_hf'),
  (('export/config.json',), 'has no config.json, and .*/given/export has; give that$'),
  (('model.safetensors',), 'has no config.json; copy it from the checkpoint$'),
  ((), 'has no config.json; copy it from the checkpoint$'),
]


@pytest.mark.parametrize(('files', 'said'), DIRECTORIES)
def test_what_is_no_base_is_named(tmp_path, files, said):
  given = tmp_path / 'given'
  given.mkdir()
  for name in files:
    (given / name).parent.mkdir(exist_ok=True)
    (given / name).write_text('{}')
  # As build, train, evaluate and campaign read it, and as import and export do.
  with pytest.raises(FileNotFoundError, match=said):
    checkpoint.read_config(given)
  with pytest.raises(stream.CheckpointError, match=said):
    stream.Reader(given)
