"""One trial, from its spec to its exported weights.

The steps: verify the fork, build the recipe, check liveness, train, export.
"""

import json
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np
import tokenizers as tokenizers_lib

from aevo_jax.campaign.trial.liveness import DeadBindingError, check_live
from aevo_jax.campaign.trial.spec import EXPORT, TrialSpec
from aevo_jax.checkpoint.digest import ManifestError
from aevo_jax.config.configurables import LoadError
from aevo_jax.config.search_space import SearchSpace
from aevo_jax.config.statements import parse_statements
from aevo_jax.data import corpus as corpora
from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint
from aevo_jax.substrate.build import SubstrateMismatchError, load_base
from aevo_jax.substrate.store import open_fork
from aevo_jax.training.post_train import Run
from aevo_jax.training.recipe.recipe import Recipe
from aevo_jax.training.recipe.task_source import TaskSource
from aevo_jax.training.recipe.token_budget import StepPlan, plan_steps
from aevo_jax.training.rl.gates import StoppedError
from aevo_jax.training.run_config import RunConfig
from aevo_jax.training.train_loop import NonFiniteError


class _Base(NamedTuple):
  """The forked substrate: where it lies, and its weights by name."""

  directory: pathlib.Path
  weights: dict[str, np.ndarray]


class _PreparedTrial(NamedTuple):
  """A trial before its first step."""

  config: ModelConfig
  plan: StepPlan
  run: Run


def run(directory: pathlib.Path, spec: TrialSpec) -> dict[str, Any]:
  """Runs the trial in this process.

  Args:
    directory: of the trial; gets resolved.json, liveness.json, metrics, checkpoints and the export.
    spec: the trial's whole input.

  Returns:
    The claim: `status` is 'trained', 'refused' or 'failed'. A trained one has `steps`, `tokens`,
    `flops` and `seconds`, the others have `cause` and `message`.
  """
  started = time.monotonic()
  try:
    base = _open_base(directory, spec)
  except (ManifestError, SubstrateMismatchError) as error:
    return _no_result('failed', 'substrate', error)
  try:
    trial = _prepare(directory, spec, base)
  except (LoadError, DeadBindingError, ValueError) as error:
    return _no_result('refused', type(error).__name__, error)
  ready = time.monotonic()
  try:
    final = trial.run.train(trial.plan, RunConfig())
  except NonFiniteError as error:
    return _no_result('failed', 'non_finite', error)
  except StoppedError as error:
    return _no_result('failed', 'stopped', error)
  trained = time.monotonic()
  (directory / EXPORT).parent.mkdir(exist_ok=True)
  checkpoint.save_weights(directory / EXPORT, final, trial.config)
  return {
    'status': 'trained',
    'steps': trial.plan.steps,
    'tokens': trial.plan.tokens,
    'flops': 6 * sum(p.size for p in final.values()) * trial.plan.tokens,
    'seconds': {
      'start': ready - started,
      'train': trained - ready,
      'export': time.monotonic() - trained,
    },
  }


def _no_result(status: str, cause: str, error: Exception) -> dict[str, Any]:
  return {'status': status, 'cause': cause, 'message': str(error)}


def _open_base(directory: pathlib.Path, spec: TrialSpec) -> _Base:
  base_directory = open_fork(directory, expected=spec.substrate)
  return _Base(base_directory, load_base(base_directory, logical_digest=spec.base_digest))


def _prepare(directory: pathlib.Path, spec: TrialSpec, base: _Base) -> _PreparedTrial:
  """Builds the recipe, records what it resolves to, and checks that every binding is live."""
  recipe = _recipe(spec)
  config = checkpoint.read_config(base.directory)
  tokenizer = tokenizers.load(str(base.directory))
  tasks = TaskSource(spec.size, spec.seed, corpora.load(base.directory))
  plan = plan_steps(recipe, tokenizer, tasks, tokens=spec.tokens, steps=spec.steps)
  resolved = recipe.values() | {'steps_run': plan.steps, 'plan': plan._asdict()}
  _write_json(directory / 'resolved.json', resolved)
  live = _check_live(spec, recipe, tokenizer, tasks, config)
  _write_json(directory / 'liveness.json', live)
  run = Run(config, recipe, base.weights, tokenizer, tasks, directory=directory)
  return _PreparedTrial(config, plan, run)


def _recipe(spec: TrialSpec) -> Recipe:
  """Builds the spec's recipe.

  Raises:
    LoadError: a binding is no recipe's, or its value did not arrive as written.
  """
  bindings = parse_statements(spec.recipe)
  recipe = Recipe.from_bindings(bindings)
  values = recipe.values()
  for binding in bindings:
    if values[binding.selector] != binding.value:
      raise LoadError(
        f'{binding.selector} was bound to {binding.value!r} and resolved to '
        f'{values[binding.selector]!r}'
      )
  return recipe


def _check_live(
  spec: TrialSpec,
  recipe: Recipe,
  tokenizer: tokenizers_lib.Tokenizer,
  tasks: TaskSource,
  config: ModelConfig,
) -> dict[str, str]:
  return check_live(
    recipe,
    parse_statements(spec.overlay),
    SearchSpace.from_literals(spec.axes),
    tokenizer,
    tasks,
    tokens=spec.tokens,
    steps=spec.steps,
    config=config,
  )


def _write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
  path.write_text(json.dumps(content, indent=1, sort_keys=True) + '\n')
