"""Compiles training steps ahead of the workers: a trusted process, the only one that writes the
compilation cache.

  python -m aevo_jax.campaign.executors.precompile REQUEST.json ...      each {"spec", "marker"}: the spec's program
  is compiled, nothing is trained, and the marker made

Compiling takes a third of a short trial. Recipes that differ in numbers alone share a program
(`program`), so one compilation serves most of a round, and with the marker left in the cache the
next run of the same substrate needs none. Workers can read the cache and never write it: whoever
writes it could run code in its readers.
"""

import json
import pathlib
import sys

from aevo_jax.campaign.trial.spec import TrialSpec
from aevo_jax.runtime import die_with_parent, pin_threads, tune_for_cpu

# What a recipe's compiled program depends on; every other number is an input of it.
_SHAPES = (
  'adaptation.method',
  'lora.rank',
  'lora.alpha',
  'lora.targets',
  'loss.label_smoothing',
  'optimizer.name',
  'train.batch_rows',
  'train.row_length',
  'train.ema_decay',
  'train.microbatches',
  'train.logits_chunk',
  'optimizer.groups',
)


def program(values: dict[str, object]) -> str:
  """A name for the compiled training step of a recipe, given as selector -> value; equal names
  share a program.
  """
  lora = values['adaptation.method'] == 'lora'
  return json.dumps(
    {name: values[name] for name in _SHAPES if lora or not name.startswith('lora.')}, sort_keys=True
  )


def main(argv: list[str]) -> int:
  die_with_parent()
  requests = [json.loads(pathlib.Path(path).read_text()) for path in argv[1:]]
  specs = [TrialSpec(**request['spec']) for request in requests]
  pin_threads(specs[0].threads)
  tune_for_cpu()
  import jax

  jax.config.update('jax_compilation_cache_dir', specs[0].cache)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.devices()
  from aevo_jax.config import loading
  from aevo_jax.config.statements import parse_statements, render
  from aevo_jax.data import corpus as corpora
  from aevo_jax.data import tokenizer as tokenizers
  from aevo_jax.models.hf import checkpoint
  from aevo_jax.substrate.build import load_base
  from aevo_jax.training import post_train, train_loop
  from aevo_jax.training.recipe import recipe as recipe_lib

  for spec, request in zip(specs, requests):
    base_directory = pathlib.Path(spec.store) / spec.substrate
    loading.load([], [render([b]) for b in parse_statements(spec.recipe)], search_paths=())
    recipe = recipe_lib.from_gin()
    prepared = post_train.prepare(
      checkpoint.read_config(base_directory),
      recipe,
      load_base(base_directory, logical_digest=spec.base_digest),
      tokenizers.load(str(base_directory)),
      size=spec.size,
      seed=spec.seed,
      corpus=corpora.load(base_directory),
    )
    train_loop.compile_step(
      prepared.structure,
      prepared.params,
      prepared.frozen,
      prepared.batches,
      post_train.transformation(recipe.optimizer),
      label_smoothing=recipe.loss.label_smoothing,
      ema_decay=recipe.train.ema_decay,
      microbatches=recipe.train.microbatches,
      logits_chunk=recipe.train.logits_chunk,
    )
    made = pathlib.Path(request['marker'])
    made.parent.mkdir(exist_ok=True)
    made.touch()
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv))
