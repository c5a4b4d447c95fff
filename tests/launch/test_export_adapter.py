"""`aevo export --adapter`: the adapter of the sealed checkpoint, as PEFT stores it, reads back
exactly.
"""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from aevo_command import aevo

from aevo_jax import cli, layout
from aevo_jax.checkpoint import orbax_io
from aevo_jax.models.hf import checkpoint, peft_adapter
from aevo_jax.models.params import is_adapter
from aevo_jax.report.winner import NoWinnerError
from aevo_jax.training.model_setup import adapt_model
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.recipe.recipe import Adaptation, Lora, Optimizer
from aevo_jax.training.train_state import TrainState

BASE = layout.root_file('substrate') / 'base'
RECIPE = (
  'adaptation.method = "lora"\nlora.rank = 4\nlora.alpha = 8.0\nlora.targets = "attention_mlp"\n'
)


EXPORT = cli.load(cli.commands()['export'])


@pytest.fixture
def trial(tmp_path):
  """A sealed trial as `write_adapter` reads it, and its trained adapters."""
  config = checkpoint.read_config(BASE)
  _, params, _ = adapt_model(
    config, Adaptation('lora'), Lora(4, 8.0, 'attention_mlp'), None, seed=0
  )
  rng = np.random.default_rng(0)
  params = {
    name: jnp.asarray(rng.standard_normal(value.shape), jnp.float32)
    for name, value in params.items()
  }
  state = TrainState.create(params, transformation(Optimizer()), 0.0)
  orbax_io.save(orbax_io.step_directory(tmp_path / 'checkpoints', 3), state)
  return types.SimpleNamespace(
    trial=types.SimpleNamespace(trial='promoted0'), recipe=RECIPE, directory=tmp_path, base=BASE
  ), params


def test_it_is_the_trained_adapter(trial, tmp_path):
  winner, params = trial
  EXPORT.write_adapter(winner, tmp_path / 'adapter', EXPORT.ExportOptions('some/base'))
  loaded, rank, alpha = peft_adapter.load(tmp_path / 'adapter', checkpoint.read_config(BASE))
  assert (
    (rank, alpha) == (4, 8.0) and loaded.keys() == params.keys() and all(map(is_adapter, loaded))
  )
  for name, value in params.items():
    np.testing.assert_array_equal(loaded[name], value)


def test_a_recipe_that_trained_all_weights_has_none(trial, tmp_path):
  winner, _ = trial
  winner.recipe = RECIPE.replace('"lora"\n', '"full"\n')
  with pytest.raises(
    NoWinnerError, match=r'trained all weights .*without --adapter the weights are exported'
  ):
    EXPORT.write_adapter(winner, tmp_path / 'adapter', EXPORT.ExportOptions('some/base'))


@pytest.mark.parametrize('max_rank', [None, 3, 4])
def test_a_rank_above_the_flag_is_refused_and_leaves_nothing(trial, tmp_path, max_rank):
  """The command itself, on a trial that stands for a finished run's winner."""
  winner, _ = trial
  out = tmp_path / 'exports' / 'adapter'
  options = EXPORT.ExportOptions('some/base', max_rank)
  if max_rank == 3:
    with pytest.raises(
      NoWinnerError, match=r'lora\.rank is 4 and the submission format allows 3 at most'
    ):
      EXPORT.write(winner, 'card', out, options)
    assert not list(out.parent.iterdir())
  else:
    EXPORT.write(winner, 'card', out, options)
    assert (
      peft_adapter.load(out, checkpoint.read_config(BASE)).rank == 4
      and (out / 'tokenizer.json').is_file()
      and (out / 'README.md').read_text() == 'card'
    )


def test_the_flag_names_the_challenges_limit_and_goes_with_adapters():
  flag = EXPORT.COMMAND.flags['max_rank']
  assert f' {peft_adapter.CHALLENGE_MAX_RANK} at most' in flag.help
  result = aevo('export', 'run', '--out=x', '--max_rank=32')
  assert result.returncode == 1 and 'say --adapter too' in result.stderr
