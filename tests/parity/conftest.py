"""The reference as a process of its own environment (`make parity`)."""

import contextlib
import json
import pathlib
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

FOLDER = pathlib.Path(__file__).parents[2] / 'third_party' / 'parity'


def pytest_addoption(parser):
  parser.addoption(
    '--write_goldens',
    action='store_true',
    help='write tests/models/goldens anew, from the reference',
  )


@pytest.fixture(scope='session')
def reference(tmp_path_factory):
  """reference(directory, tokens, mask, weights, prompt=0) -> {'logits', 'grad.NAME'}, see
  third_party/parity/reference.py.
  """
  log = (tmp_path_factory.mktemp('reference') / 'log.txt').open('w+')
  process = subprocess.Popen(
    [FOLDER / '.venv' / 'bin' / 'python', FOLDER / 'reference.py'],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=log,
    text=True,
  )

  def ask(
    directory: pathlib.Path,
    tokens: np.ndarray,
    mask: np.ndarray,
    weights: np.ndarray,
    prompt: int = 0,
  ) -> dict[str, np.ndarray]:
    inputs = {
      'tokens': tokens.astype(np.int32),
      'mask': mask.astype(np.int32),
      'weights': weights.astype(np.float32),
    }
    if prompt:
      inputs['prompt'] = np.array([prompt], np.int32)
    save_file(inputs, directory / 'inputs.safetensors')
    process.stdin.write(f'{directory}\n')
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
      log.seek(0)
      pytest.fail(f'the reference ended: {log.read()[-3000:]}')
    reply = json.loads(line)
    assert reply['ok'], reply['error']
    return load_file(directory / 'outputs.safetensors')

  yield ask
  process.stdin.close()
  process.stdout.close()
  process.wait(timeout=60)
  log.close()


@contextlib.contextmanager
def talk(script: str, log):
  """ask(do=..., ...) -> the answer of a script of third_party/parity, {'ok': ...}."""
  process = subprocess.Popen(
    [FOLDER / '.venv' / 'bin' / 'python', FOLDER / script],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=log,
    text=True,
  )

  def ask(**request) -> dict:
    process.stdin.write(json.dumps(request, default=str) + '\n')
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
      log.seek(0)
      pytest.fail(f'{script} ended: {log.read()[-3000:]}')
    return json.loads(line)

  yield ask
  process.stdin.close()
  process.stdout.close()
  process.wait(timeout=60)


@pytest.fixture(scope='session')
def interop(tmp_path_factory):
  with (
    (tmp_path_factory.mktemp('interop') / 'log.txt').open('w+') as log,
    talk('interop.py', log) as ask,
  ):
    yield ask


@pytest.fixture(scope='session')
def trl(tmp_path_factory):
  with (
    (tmp_path_factory.mktemp('trl') / 'log.txt').open('w+') as log,
    talk('trl_losses.py', log) as ask,
  ):
    yield ask


@pytest.fixture
def theirs(interop, tmp_path):
  """theirs(model directory, tokens, mask, adapter directory or None) -> Hugging Face's logits [b,
  t, v].
  """

  def logits(
    model: pathlib.Path, tokens: np.ndarray, mask: np.ndarray, adapter: pathlib.Path | None = None
  ) -> np.ndarray:
    save_file(
      {'tokens': tokens.astype(np.int32), 'mask': mask.astype(np.int32)},
      tmp_path / 'inputs.safetensors',
    )
    reply = interop(
      do='logits',
      model=model,
      adapter=adapter and str(adapter),
      inputs=tmp_path / 'inputs.safetensors',
      out=tmp_path / 'outputs.safetensors',
    )
    assert reply['ok'], reply['error'] + reply['trace']
    return load_file(tmp_path / 'outputs.safetensors')['logits']

  return logits
