"""How far the sampler's log-probabilities are from the trainer's under the same weights.

  .venv/bin/python benchmarks/logprob_gaps.py [--engines=jax,vllm] [--models=micro,...]

For each model, dtype and engine 64 completions are drawn at temperature 1, in groups of 8 to a
prompt, and scored as the trainer scores them. Printed are mean, 99% quantile and maximum of the
differences, as the gates see them. The defaults of `gates.*` come of this table
(`gates.LIMITS`). Results are kept in benchmarks/results/logprob_gaps.json.

Models: `micro` is the committed base (773 thousand parameters, pretrained), `deep` three times as
deep and twice as wide, `qwen3` and `experts` of another family and of other blocks. Weights of the
last three are random, with the head's scaled until a token's entropy is about the trained one's.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import vllm_grpo  # beside this file
import vllm_parity  # beside this file

from aevo_jax import layout
from aevo_jax.data import chat_template
from aevo_jax.evaluation import sets
from aevo_jax.generation.engine import Engine
from aevo_jax.models import weights
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import outline, unbind
from aevo_jax.training.recipe.rl_settings import Algorithm, Rollout
from aevo_jax.training.rl import gates, loop, prefix, update
from aevo_jax.training.rl.rollouts import generation, rollouts
from aevo_jax.training.rl.rollouts.environment import Turn
from aevo_jax.training.rl.rollouts.generation import Format, RolloutSource

RESULTS = pathlib.Path(__file__).parent / 'results' / 'logprob_gaps.json'
DTYPES = ('float32', 'bfloat16')
ENGINES = ('jax', 'vllm')
ROWS, GROUP, NEW = 64, 8, 40
ANY = gates.Limits(0.0, 0.0, 0.0)
HEAD_SCALE = 12.0
_QWEN3 = {
  'family': 'qwen3',
  'hidden_size': 256,
  'head_dim': 32,
  'num_attention_heads': 8,
  'rope_theta': 1e4,
  'qk_norm': True,
  'mlp_activation': 'swiglu',
}
MODELS = {
  'micro': None,
  'deep': ModelConfig(hidden_size=256, pattern='M-*-M-*-' * 3, num_attention_heads=8),
  'qwen3': ModelConfig(**_QWEN3, pattern='*-' * 12),
  'experts': ModelConfig(hidden_size=256, pattern='ME*E' * 3, num_attention_heads=8),
}


def base_of(name: str, directory: pathlib.Path) -> pathlib.Path:
  """Writes a base of a model, or returns the committed one."""
  micro = layout.root_file('substrate') / 'base'
  config = MODELS[name]
  if config is None:
    return micro
  base = directory / name
  if base.exists():
    return base
  shutil.copytree(micro, base)
  params = {key: np.asarray(value) for key, value in unbind(create(config, 0))[1].items()}
  params['lm_head.kernel'] = params['lm_head.kernel'] * HEAD_SCALE
  checkpoint.save_weights(base / checkpoint.WEIGHTS, params, config)
  fields = checkpoint.config_to_hf(config, eos_token_id=2, pad_token_id=0)
  (base / checkpoint.CONFIG).write_text(json.dumps(fields))
  return base


class Questions:
  """An environment of the quickstart's dev questions; nothing is rewarded."""

  max_turns = 1

  def __init__(self):
    self._items = sets.dev_items(vllm_parity.quickstart())

  def episode(self, index: int):
    item = self._items[index % len(self._items)]

    class Episode:
      observation, family = item.question, item.family

      def act(self, action):
        return Turn('', {'verifiable': 0.0}, True)

    return Episode()


def measure(name: str, dtype: str, engine: str, directory: pathlib.Path) -> dict:
  """Draws completions, and computes their log-probabilities as the trainer does."""
  base = base_of(name, directory)
  model = vllm_parity.Model(base)
  config = dataclasses.replace(model.config, compute_dtype=dtype)
  structure = outline(config)[0]
  params = weights.load(base)
  text = chat_template.read(str(base))

  def prompt(question: str, first: bool) -> list[int]:
    return model.tokenizer.encode(text.prompt(question), add_special_tokens=False).ids

  drawn_by = Engine(structure, eos_ids=[model.eos], pad_id=model.pad, slots=ROWS)
  if engine == 'vllm':
    model.config, model.structure = config, structure
    drawn_by = model.engine(directory / 'vllm.log', dtype=dtype)
  form = Format(prompt, str, (model.eos,))
  algorithm = Algorithm(
    rollout=Rollout(prompts=ROWS // GROUP, group_size=GROUP, max_new_tokens=NEW)
  )
  with contextlib.closing(drawn_by):
    drawn_by.update(params, 0)
    source = RolloutSource(drawn_by, Questions(), form)
    collected = generation.collect(source, algorithm, 0, 0)
  arrays = rollouts.arrays(collected.kept, ROWS)
  inputs = {key: arrays[key] for key in loop.MODEL_INPUTS}

  @jax.jit
  def describe(params, rows):
    return update.describe(structure, params, {}, rows, temperature=1.0, chunk=0)[0]

  stats = describe(params, prefix.fold(inputs, GROUP))
  stats = jax.tree.map(lambda x: prefix.unfold(np.asarray(x), inputs), stats)
  gap = gates.logprob_gap(
    stats.logprobs, arrays['sampler_logprobs'], arrays['mask'], arrays['tokens'], ANY
  )
  return {
    'model': name,
    'dtype': dtype,
    'engine': engine,
    'tokens': int(arrays['mask'].sum()),
    'entropy': float((stats.entropy * arrays['mask']).sum() / arrays['mask'].sum()),
    'probe': getattr(drawn_by, 'gap', None),
    **gap._asdict(),
    **vllm_grpo.facts(),
  }


def table(rows: list[dict]) -> str:
  """The rows as Markdown."""
  lines = [
    '| dtype | engine | model | tokens | entropy | mean | 99% quantile | maximum |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for row in sorted(rows, key=lambda r: (r['dtype'] != 'float32', r['engine'], r['model'])):
    lines.append(
      f'| {row["dtype"]} | {row["engine"]} | {row["model"]} | {row["tokens"]:,} | '
      f'{row["entropy"]:.2f} | {row["mean"]:.1e} | {row["quantile"]:.1e} | {row["largest"]:.1e} |'
    )
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--engines', default='jax')
  parser.add_argument('--models', default=','.join(MODELS))
  options = parser.parse_args()
  kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
  with tempfile.TemporaryDirectory() as name:
    for engine in options.engines.split(','):
      for model in options.models.split(','):
        for dtype in DTYPES:
          row = measure(model, dtype, engine, pathlib.Path(name))
          key = (model, dtype, engine)
          kept = [r for r in kept if (r['model'], r['dtype'], r['engine']) != key] + [row]
          RESULTS.write_text(json.dumps(kept, indent=1) + '\n')
          print(table([row]), flush=True)
  print(table(kept))


if __name__ == '__main__':
  main()
