"""Losses, their gradients by every parameter, and advantages against TRL's trainers: the same
weights, tokens and options for both, in float32.
"""

import json
import shutil

import numpy as np
import pytest
import trl_cases
from common import random_parameters
from safetensors.numpy import load_file, save_file

from aevo_jax.models.hf import checkpoint
from aevo_jax.training.losses import advantages

pytestmark = pytest.mark.parity


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  """(structure, parameters, directory) of the policy and of the reference."""
  made = []
  for seed in (0, 1):
    directory = tmp_path_factory.mktemp(f'model{seed}')
    structure, params = random_parameters(trl_cases.CONFIG, seed)
    checkpoint.save_weights(directory / checkpoint.WEIGHTS, params, trl_cases.CONFIG)
    (directory / checkpoint.CONFIG).write_text(
      json.dumps(
        checkpoint.config_to_hf(trl_cases.CONFIG, eos_token_id=2, pad_token_id=0), indent=1
      )
      + '\n'
    )
    made.append((structure, params, directory))
  return made


@pytest.mark.parametrize('name', trl_cases.CASES)
def test_loss_and_gradients_are_trls(trl, models, name, request, tmp_path):
  case, batch = trl_cases.CASES[name], trl_cases.inputs()
  (structure, params, directory), (_, reference, reference_directory) = models
  save_file(batch | trl_cases.correction(case, batch), tmp_path / 'inputs.safetensors')
  reply = trl(
    do=case.do,
    model=directory,
    reference=str(reference_directory) if case.needs_reference else None,
    options=case.theirs,
    inputs=tmp_path / 'inputs.safetensors',
    out=tmp_path / 'outputs.safetensors',
  )
  assert reply['ok'], reply['error'] + reply['trace']
  theirs = load_file(tmp_path / 'outputs.safetensors')
  trl_cases.assert_theirs(case, structure, params, reference, batch, theirs)
  if request.config.getoption('--write_goldens'):
    goldens = trl_cases.GOLDENS
    goldens.mkdir(exist_ok=True)
    for model, target in ((directory, 'model'), (reference_directory, 'reference')):
      shutil.copytree(model, goldens / target, dirs_exist_ok=True)
    (goldens / 'versions.json').write_text(
      json.dumps({k: v for k, v in trl(do='versions').items() if k != 'ok'}, indent=1) + '\n'
    )
    save_file(
      {'loss': theirs['loss']}
      | {f'grad.{shown}': theirs[f'grad.{shown}'] for shown in trl_cases.SHOWN},
      goldens / f'{name}.safetensors',
    )


@pytest.mark.parametrize(
  'trainer,kind,options',
  [
    ('grpo', 'group_std', {'scale_rewards': 'group'}),
    ('grpo', 'group_mean', {'scale_rewards': 'none'}),
    ('rloo', 'leave_one_out', {}),
  ],
)
def test_advantages_are_trls(trl, models, trainer, kind, options):
  rewards = [1.0, 0.0, 0.0, 0.3, 0.5, 0.5, 0.5, 0.5, -2.0, 4.0, 0.25, 0.0]
  reply = trl(
    do='advantages',
    trainer=trainer,
    model=models[0][2],
    options=options | {'beta': 0.0},
    rewards=rewards,
    generations=4,
  )
  assert reply['ok'], reply['error'] + reply['trace']
  ours = advantages.of_completions(rewards, np.repeat(range(3), 4), advantages.Advantage(kind))
  np.testing.assert_allclose(ours, reply['advantages'], rtol=1e-5, atol=1e-6)
