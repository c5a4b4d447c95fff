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
from aevo_jax.export import sealed
from aevo_jax.export.sealed import ExportOptions
from aevo_jax.models import lora, weights
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


def fill(winner, out, options) -> list[str]:
  return sealed.fill(winner, lambda form: 'card', out, options, 'some/base')


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
  fill(winner, tmp_path / 'adapter', ExportOptions('some/base'))
  loaded, rank, alpha = peft_adapter.load(tmp_path / 'adapter', checkpoint.read_config(BASE))
  assert (
    (rank, alpha) == (4, 8.0) and loaded.keys() == params.keys() and all(map(is_adapter, loaded))
  )
  for name, value in params.items():
    np.testing.assert_array_equal(loaded[name], value)


def test_whole_weights_have_the_adapter_beside_them(trial, tmp_path):
  winner, params = trial
  (tmp_path / 'export').mkdir()
  (tmp_path / 'export' / 'model.safetensors').write_bytes(b'weights')
  assert fill(winner, tmp_path / 'out', ExportOptions()) == []
  loaded, rank, _ = peft_adapter.load(tmp_path / 'out' / 'adapter', checkpoint.read_config(BASE))
  assert rank == 4 and loaded.keys() == params.keys()
  assert (tmp_path / 'out' / 'model.safetensors').read_bytes() == b'weights'
  assert not (tmp_path / 'out' / 'adapter_config.json').exists()
  assert (tmp_path / 'out' / 'adapter' / 'tokenizer.json').is_file()


def test_two_methods_one_after_the_other_train_one_adapter_of_twice_the_rank(trial, tmp_path):
  """Merged into the base it gives what merging one after the other gives."""
  winner, params = trial
  rng = np.random.default_rng(1)
  second = {}
  for name, value in params.items():
    second[name] = jnp.asarray(rng.standard_normal(value.shape), jnp.float32)
  state = TrainState.create(second, transformation(Optimizer()), 0.0)
  orbax_io.save(orbax_io.step_directory(tmp_path / 'then' / 'checkpoints', 2), state)
  fill(winner, tmp_path / 'adapter', ExportOptions('some/base'))
  loaded, rank, alpha = peft_adapter.load(tmp_path / 'adapter', checkpoint.read_config(BASE))
  assert (rank, alpha) == (8, 16.0)
  base = weights.load(BASE, checkpoint.read_config(BASE))
  once = lora.merge({**base, **loaded}, alpha / rank)
  twice = lora.merge({**lora.merge({**base, **params}, 2.0), **second}, 2.0)
  for name, value in twice.items():
    np.testing.assert_allclose(once[name], value, rtol=1e-5, atol=1e-4)


def test_a_recipe_that_trained_all_weights_has_none(trial, tmp_path):
  winner, _ = trial
  winner.recipe = RECIPE.replace('"lora"\n', '"full"\n')
  with pytest.raises(
    NoWinnerError, match=r'trained all weights .*without --adapter the weights are exported'
  ):
    fill(winner, tmp_path / 'adapter', ExportOptions('some/base'))


@pytest.mark.parametrize('max_rank', [None, 3, 4])
def test_a_rank_above_the_flag_is_refused_and_leaves_nothing(trial, tmp_path, max_rank):
  """The command itself, on a trial that stands for a finished run's winner."""
  winner, _ = trial
  out = tmp_path / 'exports' / 'adapter'
  options = ExportOptions('some/base', max_rank)
  if max_rank == 3:
    with pytest.raises(
      NoWinnerError, match=r'lora\.rank is 4 and the submission format allows 3 at most'
    ):
      fill(winner, out, options)
    assert not out.exists()
  else:
    fill(winner, out, options)
    assert (
      peft_adapter.load(out, checkpoint.read_config(BASE)).rank == 4
      and (out / 'tokenizer.json').is_file()
      and (out / 'README.md').read_text() == 'card'
    )


def test_the_flag_names_the_challenges_limit_and_goes_with_adapters():
  flag = EXPORT.COMMAND.flags['max_rank']
  assert f' {peft_adapter.CHALLENGE_MAX_RANK} at most' in flag.help
  result = aevo('export', '.', '--out=x', '--max_rank=32')
  assert result.returncode == 1 and 'say --adapter too' in result.stderr
