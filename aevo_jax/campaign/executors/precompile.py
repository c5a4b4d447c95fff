"""Compiles training steps ahead of the workers.

  python -m aevo_jax.campaign.executors.precompile REQUEST.json ...

Each request is {"spec", "marker"}: the spec's program is compiled, nothing is trained, and the
marker file appears. This is a trusted process, and the only one that writes the compilation cache.

Compiling takes a third of a short trial. Recipes that differ in numbers alone share a program
(`training.recipe.program_key`), so one compilation serves most of a round, and with the marker left
in the cache the next run of the same substrate needs none. Workers can read the cache and never
write it: whoever writes it could run code in its readers.
"""

import json
import pathlib
import sys

from aevo_jax.campaign.trial.spec import TrialSpec
from aevo_jax.config.statements import parse_statements
from aevo_jax.runtime import compile_quickly, die_with_parent, pin_threads


def main(argv: list[str]) -> int:
  """Compiles the programs of all requests, one after the other.

  Args:
    argv: name of this program, then paths of requests.

  Returns:
    The exit status.
  """
  die_with_parent()
  requests = [json.loads(pathlib.Path(path).read_text()) for path in argv[1:]]
  specs = [TrialSpec(**request['spec']) for request in requests]
  pin_threads(specs[0].threads)
  compile_quickly()
  import jax  # noqa: PLC0415 after threads and flags are set

  jax.config.update('jax_compilation_cache_dir', specs[0].cache)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.devices()
  for spec, request in zip(specs, requests, strict=True):
    compile_program(spec)
    marker = pathlib.Path(request['marker'])
    marker.parent.mkdir(exist_ok=True)
    marker.touch()
  return 0


def compile_program(spec: TrialSpec) -> None:
  """Compiles the training step of a trial into JAX's persistent cache.

  Args:
    spec: of a trial with this program.

  Raises:
    ValueError: the recipe is one that a worker refuses.
  """
  # Late, since threads and flags must be set before the libraries are imported.
  from aevo_jax.data import corpus, tokenizer  # noqa: PLC0415 see above
  from aevo_jax.models.hf import checkpoint  # noqa: PLC0415 see above
  from aevo_jax.substrate.build import load_base  # noqa: PLC0415 see above
  from aevo_jax.training import optimizer, post_train, train_loop  # noqa: PLC0415 see above
  from aevo_jax.training.recipe.recipe import Recipe  # noqa: PLC0415 see above
  from aevo_jax.training.recipe.task_source import TaskSource  # noqa: PLC0415 see above

  base_directory = pathlib.Path(spec.store) / spec.substrate
  recipe = Recipe.from_bindings(parse_statements(spec.recipe))
  prepared = post_train.prepare(
    checkpoint.read_config(base_directory),
    recipe,
    load_base(base_directory, logical_digest=spec.base_digest),
    tokenizer.load(str(base_directory)),
    TaskSource(spec.size, spec.seed, corpus.load(base_directory)),
  )
  train_loop.compile_step(
    prepared.model,
    optimizer.transformation(recipe.optimizer),
    prepared.batches,
    recipe.train_config(),
  )


if __name__ == '__main__':
  sys.exit(main(sys.argv))
