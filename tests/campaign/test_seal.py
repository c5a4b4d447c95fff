"""Sealing: every file counts, links are refused, and a claim is data."""

import hashlib
import json
import os
import stat

import pytest

from aevo_jax.campaign.trial.seal import UnsealableError, read_claim, seal
from aevo_jax.campaign.trial.spec import EXPORT, RESULT, TrialSpec, trial_seed
from aevo_jax.checkpoint.digest import ManifestError, file_manifest, manifest_digest

CLAIM = {'status': 'trained', 'steps': 1, 'tokens': 2, 'flops': 3, 'seconds': {}}


@pytest.fixture
def trial(tmp_path):
  directory = tmp_path / 'r1w0'
  (directory / EXPORT).parent.mkdir(parents=True)
  (directory / EXPORT).write_bytes(b'weights')
  (directory / 'log.txt').write_text('log')
  (directory / RESULT).write_text(json.dumps(CLAIM))
  return directory


def test_the_seal_names_every_byte_and_makes_files_read_only(trial):
  files = file_manifest(trial)
  sealed = seal(trial)
  assert sealed.export_file == hashlib.sha256(b'weights').hexdigest() and sealed.claim == CLAIM
  assert sealed.digest == manifest_digest(files) and set(files) == {
    'log.txt',
    RESULT,
    EXPORT.as_posix(),
  }
  assert all(stat.S_IMODE(os.stat(trial / name).st_mode) == 0o444 for name in files)
  assert seal(trial) == sealed  # a controller killed after sealing seals again


@pytest.mark.parametrize('change', ['log.txt', RESULT, EXPORT.as_posix(), 'new file'])
def test_any_change_is_another_seal(trial, change):
  before = seal(trial).digest
  path = trial / change
  content = path.read_bytes() if path.exists() else b''
  path.unlink(missing_ok=True)
  path.write_bytes(content + b' ')
  assert seal(trial).digest != before


@pytest.mark.parametrize('missing', [RESULT, EXPORT])
def test_incomplete_output_is_refused_by_name(trial, missing):
  (trial / missing).unlink()
  with pytest.raises(UnsealableError, match=str(missing)):
    seal(trial)


def test_links_are_refused(trial):
  (trial / 'link').symlink_to('/etc/passwd')
  with pytest.raises(ManifestError, match='link'):
    seal(trial)


@pytest.mark.parametrize(
  'text',
  [
    '',
    '{',
    '[]',
    '3',
    'null',
    '{"status": []}',
    '{"status": "won"}',
    '{"status": "failed"}',
    '{"status": "refused", "cause": 1, "message": "m"}',
    json.dumps(CLAIM | {'tokens': 'many'}),
    json.dumps(CLAIM).replace('2', 'Infinity'),
    '[' * 100_000,
    '\x00',
  ],
)
def test_a_malformed_claim_is_unsealable_and_nothing_worse(trial, text):
  (trial / RESULT).write_text(text)
  with pytest.raises(UnsealableError):
    read_claim(trial)


def test_specs_round_trip_and_seeds_differ_by_trial(tmp_path):
  spec = TrialSpec(
    'r1w0',
    '/s',
    'o',
    'b',
    'c',
    'optimizer.b1 = 0.9\n',
    '',
    7,
    'micro',
    10,
    2,
    1,
    {'a': {}},
    '',
    True,
  )
  spec.write(tmp_path)
  assert TrialSpec.read(tmp_path) == spec and (tmp_path / 'recipe.gin').read_text() == spec.recipe
  seeds = {
    trial_seed(campaign, f'r{r}w{w}') for campaign in range(3) for r in range(5) for w in range(8)
  }
  assert len(seeds) == 120 and all(0 <= s < 2**31 for s in seeds)
  assert trial_seed(0, 'r1w0') == int(hashlib.sha256(b'0|r1w0').hexdigest()[:8], 16) // 2
