"""On-policy distillation as a method of the loop."""

import dataclasses
import functools
import shutil

import numpy as np
import pytest
from rl_cases import (
  CONFIG,
  FORM,
  PARAMS,
  RULE,
  SMALL,
  STRUCTURE,
  Ragged,
  engine,
  metrics,
  rates,
)

from aevo_jax import layout
from aevo_jax.data import tokenizer as tokenizer_lib
from aevo_jax.models.decoder import create
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import unbind
from aevo_jax.training.losses.distillation import Distillation
from aevo_jax.training.model_setup import PolicyModel
from aevo_jax.training.rl import loop, update
from aevo_jax.training.rl import run as rl_run
from aevo_jax.training.rl.rollouts import rollout_log
from aevo_jax.training.rl.rollouts.generation import RolloutSource

DISTILLED = dataclasses.replace(SMALL, distillation=Distillation('a teacher'))


@functools.cache
def teacher():
  """Another model over the same tokens, surer than a fresh one."""
  structure, params = unbind(create(dataclasses.replace(CONFIG, pattern='*-*-', hidden_size=16), 5))
  return update.Teacher(structure, {name: 2 * value for name, value in params.items()})


@pytest.mark.parametrize('shared', [True, False])
def test_distillation_brings_the_student_to_its_teacher(shared, tmp_path):
  algorithm = dataclasses.replace(DISTILLED, rl=dataclasses.replace(SMALL.rl, shared_prefix=shared))
  made = loop.Trainer(
    PolicyModel(STRUCTURE, PARAMS, {}),
    RULE,
    algorithm,
    RolloutSource(engine(), Ragged(), FORM),
    seed=0,
    directory=tmp_path,
    teacher=teacher(),
  )
  made.train(rates(40))
  found = metrics(tmp_path)
  first = rollout_log.read(tmp_path / loop.ROLLOUTS / '000000').arrays

  def say(structure, params):
    return np.asarray(structure.bind(params)(first['tokens'], first['segment_ids']), np.float64)[
      :, :-1
    ]

  def log(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

  p, q, mask = log(say(STRUCTURE, PARAMS)), log(say(*teacher())), first['mask'][:, 1:]
  assert found[0]['loss'] == pytest.approx(
    ((np.exp(p) * (p - q)).sum(-1) * mask).sum() / mask.sum(), rel=1e-4
  ) and found[0]['kl_teacher'] == pytest.approx(found[0]['loss'], rel=1e-5)
  assert np.mean([m['kl_teacher'] for m in found[-5:]]) < 0.3 * found[0]['kl_teacher']
  assert {'reward', 'entropy', 'grad_norm', 'grad_snr', 'seconds/update'} <= found[0].keys()


def test_a_teacher_that_cannot_teach_is_refused(tmp_path):
  base = layout.root_file('substrate') / 'base'
  own = tokenizer_lib.load(str(base))
  config = checkpoint.read_config(base)
  structure, params = rl_run.load_teacher(
    str(base), own, dataclasses.replace(config, compute_dtype='bfloat16')
  )
  assert structure.bind(params).config == dataclasses.replace(config, compute_dtype='bfloat16')
  with pytest.raises(ValueError, match='no checkpoint is there'):
    rl_run.load_teacher(str(tmp_path / 'nowhere'), own, config)
  with pytest.raises(ValueError, match="give a teacher with the student's vocab_size"):
    rl_run.load_teacher(
      str(base), own, dataclasses.replace(config, vocab_size=config.vocab_size + 4)
    )
  shutil.copytree(base, tmp_path / 'other')
  text = (tmp_path / 'other' / 'tokenizer.json').read_text()
  (tmp_path / 'other' / 'tokenizer.json').write_text(text.replace('"bits"', '"bytes"'))
  with pytest.raises(ValueError, match='another vocabulary'):
    rl_run.load_teacher(str(tmp_path / 'other'), own, config)
  shutil.copytree(base, tmp_path / 'torn')
  (tmp_path / 'torn' / 'tokenizer.json').write_text(text[:100])
  with pytest.raises(ValueError, match='cannot be read'):
    rl_run.load_teacher(str(tmp_path / 'torn'), own, config)
