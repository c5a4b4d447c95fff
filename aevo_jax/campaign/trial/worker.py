"""The worker: one trial, from its spec to its exported weights, in a process of its own.

  python -m aevo_jax.campaign.trial.worker DIRECTORY

The fork server calls `main` in a process that it forked; any other executor can run the line above.

It pins its threads and locks itself in before anything runs, then: verify the fork, parse the
recipe once, check liveness, train, export. It exits 0 whenever it could say what happened;
`result.json` holds the status ('trained', 'refused', 'failed') and the cause.
"""

import json
import os
import pathlib
import sys
import time
import traceback

from aevo_jax.campaign.sandbox import confinement
from aevo_jax.campaign.trial.spec import EXPORT, RESULT, TrialSpec
from aevo_jax.runtime import die_with_parent, pin_threads, tune_for_cpu, unpin


def run(directory: pathlib.Path, spec: TrialSpec) -> dict:
  """Runs the trial in this process and returns its claim."""
  # Imported here and by the fork server, in this order: threads and malloc must be set first.
  from aevo_jax.campaign.trial.liveness import DeadBindingError, check_live
  from aevo_jax.checkpoint.digest import ManifestError
  from aevo_jax.config import loading
  from aevo_jax.config.search_space import SearchSpace
  from aevo_jax.config.statements import parse_statements, render
  from aevo_jax.data import corpus as corpora
  from aevo_jax.data import tokenizer as tokenizers
  from aevo_jax.models.hf import checkpoint
  from aevo_jax.substrate.build import SubstrateMismatchError, load_base
  from aevo_jax.substrate.store import open_fork
  from aevo_jax.training import post_train
  from aevo_jax.training.recipe import recipe as recipe_lib
  from aevo_jax.training.recipe import token_budget as plan_lib
  from aevo_jax.training.rl.gates import StoppedError
  from aevo_jax.training.train_loop import NonFiniteError

  started = time.monotonic()
  try:
    base_directory = open_fork(directory, expected=spec.substrate)
    base = load_base(base_directory, logical_digest=spec.base_digest)
  except (ManifestError, SubstrateMismatchError) as error:
    return {'status': 'failed', 'cause': 'substrate', 'message': str(error)}

  try:
    bindings = parse_statements(spec.recipe)
    loading.load([], [render([b]) for b in bindings], search_paths=())
    recipe = recipe_lib.from_gin()
    resolved = {b.selector: b.value for b in loading.resolved_bindings(recipe_lib.NAMES)}
    for binding in bindings:
      if resolved[binding.selector] != binding.value:
        raise loading.LoadError(
          f'{binding.selector} was bound to {binding.value!r} and resolved to '
          f'{resolved[binding.selector]!r}'
        )
    config = checkpoint.read_config(base_directory)
    tokenizer, corpus = tokenizers.load(str(base_directory)), corpora.load(base_directory)
    given = {'size': spec.size, 'seed': spec.seed, 'corpus': corpus}
    plan = plan_lib.divide(recipe, tokenizer, tokens=spec.tokens, steps=spec.steps, **given)
    (directory / 'resolved.json').write_text(
      json.dumps(
        resolved | {'steps_run': plan.steps, 'plan': plan._asdict()}, indent=1, sort_keys=True
      )
      + '\n'
    )
    live = check_live(
      recipe,
      parse_statements(spec.overlay),
      SearchSpace.from_literals(spec.axes),
      tokenizer,
      tokens=spec.tokens,
      steps=spec.steps,
      config=config,
      **given,
    )
    (directory / 'liveness.json').write_text(json.dumps(live, indent=1, sort_keys=True) + '\n')
    prepared = post_train.Run(config, recipe, base, tokenizer, directory=directory, **given)
  except (loading.LoadError, DeadBindingError, ValueError) as error:
    return {'status': 'refused', 'cause': type(error).__name__, 'message': str(error)}

  ready = time.monotonic()
  try:
    final = prepared.train(plan)
  except NonFiniteError as error:
    return {'status': 'failed', 'cause': 'non_finite', 'message': str(error)}
  except StoppedError as error:
    return {'status': 'failed', 'cause': 'stopped', 'message': str(error)}
  trained = time.monotonic()
  (directory / EXPORT).parent.mkdir(exist_ok=True)
  checkpoint.save_weights(directory / EXPORT, final, config)
  return {
    'status': 'trained',
    'steps': plan.steps,
    'tokens': plan.tokens,
    'flops': 6 * sum(p.size for p in final.values()) * plan.tokens,
    'seconds': {
      'start': ready - started,
      'train': trained - ready,
      'export': time.monotonic() - trained,
    },
  }


def main(directory: str | pathlib.Path) -> int:
  """Runs the trial in `directory`; the exit status."""
  die_with_parent()
  directory = pathlib.Path(directory).absolute()
  os.chdir(directory)
  os.environ['HOME'] = str(directory)
  spec = TrialSpec.read(directory)
  cores = os.sched_getaffinity(0)
  pin_threads(spec.threads)
  os.environ['TMPDIR'] = str(directory / 'tmp')
  (directory / 'tmp').mkdir(exist_ok=True)
  if spec.locked:
    package = pathlib.Path(__file__).resolve().parents[2]
    cache = (pathlib.Path(spec.cache),) if spec.cache else ()
    confinement.confine(
      confinement.Confinement(
        read=(
          *confinement.system_read_paths(),
          package,
          pathlib.Path(spec.store) / spec.substrate,
          *cache,
        ),
        write=(*confinement.system_write_paths(), directory),
      )
    )
  import jax

  if spec.cache:
    # Read-only: whoever can write the cache can run code in its readers, so no entry is ever long
    # enough in the making to be saved.
    jax.config.update('jax_compilation_cache_dir', spec.cache)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 1e9)
  jax.devices()
  unpin(cores)
  try:
    claim = run(directory, spec)
  except MemoryError:
    claim = {'status': 'failed', 'cause': 'out_of_memory', 'message': traceback.format_exc(limit=3)}
  temporary = directory / (RESULT + '.tmp')
  temporary.write_text(json.dumps(claim, indent=1, sort_keys=True) + '\n')
  temporary.rename(directory / RESULT)
  print(json.dumps(claim))
  return 0


if __name__ == '__main__':
  tune_for_cpu()
  sys.exit(main(sys.argv[1]))
