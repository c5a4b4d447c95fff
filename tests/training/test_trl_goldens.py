"""Losses and gradients as TRL's trainers gave them (`make parity PYTEST_ARGS='--write_goldens -k
trl'`; versions.json says which), checked here without torch.
"""

import pytest
import trl_cases
from safetensors.numpy import load_file

from aevo_jax.models import weights as weights_lib
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import outline


def weights(name):
  return weights_lib.load(trl_cases.GOLDENS / name / checkpoint.WEIGHTS, trl_cases.CONFIG)


@pytest.mark.parametrize('name', trl_cases.CASES)
def test_loss_and_gradients_are_trls(name):
  theirs = load_file(trl_cases.GOLDENS / f'{name}.safetensors')
  trl_cases.assert_theirs(
    trl_cases.CASES[name],
    outline(trl_cases.CONFIG)[0],
    weights('model'),
    weights('reference'),
    trl_cases.inputs(),
    theirs,
  )
