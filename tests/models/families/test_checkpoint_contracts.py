"""Every family reads a checkpoint in its spelling, computes its formula, and writes it again."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_contracts import CONTRACTS, Contract
from safetensors.numpy import load_file, save_file

from aevo_jax.models import weights as weights_lib
from aevo_jax.models.families.registry import FAMILIES
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import outline
from aevo_jax.substrate import hf_export, hf_import

LENGTHS = (9, 5)  # of the sequences in a packed row
PROMPT = 4  # tokens of the first sequence that are read at once; the others follow one by one
PADDING = 2

contracts = pytest.mark.parametrize('name', CONTRACTS)


def tensors_of(contract: Contract) -> dict[str, np.ndarray]:
  """Random tensors, none of which is zero or one: a forgotten bias must show."""
  rng = np.random.default_rng(0)
  tensors = {}
  for name, shape in contract.shapes.items():
    value = 0.4 * rng.standard_normal(shape)
    if 'norm' in name:
      value += 1.0
    tensors[name] = value.astype(np.float32)
  return tensors


def write(contract: Contract, directory: pathlib.Path) -> dict[str, np.ndarray]:
  """Writes the checkpoint of a contract; returns its tensors."""
  tensors = tensors_of(contract)
  directory.mkdir()
  (directory / checkpoint.CONFIG).write_text(json.dumps(contract.config_json))
  save_file(tensors, directory / checkpoint.WEIGHTS)
  return tensors


def expected(contract: Contract, tensors: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
  """The logits of the family's formula."""
  exact = {name: value.astype(np.float64) for name, value in tensors.items()}
  return contract.forward(contract.config_json, exact, tokens)


def test_every_family_has_a_contract():
  assert CONTRACTS.keys() == FAMILIES.keys()


@contracts
def test_logits_are_those_of_the_formula(name, tmp_path):
  """In packed rows, and decoded after a left-padded prompt."""
  contract = CONTRACTS[name]
  tensors = write(contract, tmp_path / 'in')
  config = checkpoint.read_config(tmp_path / 'in')
  structure = outline(config)[0]
  params = weights_lib.load(tmp_path / 'in')
  tokens = np.random.default_rng(1).integers(0, config.vocab_size, sum(LENGTHS)).astype(np.int32)
  first, second = np.split(tokens, [LENGTHS[0]])
  wanted = expected(contract, tensors, first)
  segments = np.repeat(np.array([1, 2], np.int32), LENGTHS)
  packed = jax.jit(lambda p, t, s: structure.bind(p)(t, s))(params, tokens[None], segments[None])
  both = np.concatenate([wanted, expected(contract, tensors, second)])
  np.testing.assert_allclose(packed[0], both, rtol=0, atol=1e-5)

  rest = LENGTHS[0] - PROMPT
  prompt = np.pad(first[:PROMPT], (PADDING, 0))
  is_token = np.arange(PADDING + PROMPT) >= PADDING
  logits, state = jax.jit(lambda p, t, v: structure.bind(p).prefill(t, v, rest))(
    params, prompt[None], is_token[None]
  )
  decoded = [logits[0]]
  step = jax.jit(lambda p, t, s: structure.bind(p).step(t, s))
  for token in first[PROMPT:]:
    logits, state = step(params, jnp.asarray([token]), state)
    decoded.append(logits[0])
  np.testing.assert_allclose(np.stack(decoded), wanted[PROMPT - 1 :], rtol=0, atol=1e-5)


@contracts
def test_a_checkpoint_comes_back_from_import_and_export(name, tmp_path):
  tensors = write(CONTRACTS[name], tmp_path / 'in')
  hf_import.import_hf(tmp_path / 'in', tmp_path / 'base')
  hf_export.export_hf(tmp_path / 'base', tmp_path / 'out')
  written = load_file(tmp_path / 'out' / checkpoint.WEIGHTS)
  assert {k: v.tobytes() for k, v in written.items()} == {
    k: v.tobytes() for k, v in tensors.items()
  }


@contracts
def test_a_checkpoint_is_written_as_it_was_read(name, tmp_path):
  contract = CONTRACTS[name]
  tensors = write(contract, tmp_path / 'in')
  config = checkpoint.read_config(tmp_path / 'in')
  params = weights_lib.load(tmp_path / 'in')
  checkpoint.save_weights(tmp_path / 'again.safetensors', params, config)
  written = load_file(tmp_path / 'again.safetensors')
  assert {k: v.tobytes() for k, v in written.items()} == {
    k: v.tobytes() for k, v in tensors.items()
  }
  fields = checkpoint.config_to_hf(config, eos_token_id=2, pad_token_id=0)
  assert {key: fields[key] for key in contract.config_json} == contract.config_json
  assert checkpoint.config_from_hf(json.loads(json.dumps(fields, allow_nan=False))) == config


@contracts
def test_a_config_that_this_decoder_does_not_compute_is_refused(name):
  contract = CONTRACTS[name]
  for change, message in contract.refused:
    with pytest.raises(ValueError, match=message):
      checkpoint.config_from_hf({**contract.config_json, **change})
