"""Train one recipe on the base, outside of any campaign.

  aevo train --out=my_run
  aevo train --gin.optimizer.learning_rate=4e-3 --tokens=500000 --out=my_run
  aevo train --base=my_base --gin_file=my_recipe.gin --out=my_run
  aevo train --gin_file=configs/meshes/fsdp.gin --out=my_run
  aevo train --tasks=my_tasks.jsonl --out=my_run
  aevo train --base=my_run/export --gin_file=configs/algorithms/grpo.gin \
    --gin.optimizer.learning_rate=5e-5 --out=my_rl

It does what a trial does, in the foreground and as long as you like. The first command trains the
substrate's default recipe; --base names a Hugging Face checkpoint, or an import of one; a mesh
shards over this machine's devices (docs/sharding.md); of tasks of your own the train split is
trained on; docs/reinforcement.md is about the last command.

Writes metrics.jsonl, tensorboard/, checkpoints/ and, at the end, export/ (weights with config and
tokenizer: a base of its own) into --out. Run again after an interrupt with the same flags, it
continues, after SIGTERM from the very step; `aevo evaluate my_run` scores it.
"""

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import pathlib
import platform
import signal
import sys
from typing import Any

from absl import flags

from aevo_jax import command, faults, layout
from aevo_jax.checkpoint import run_directory
from aevo_jax.runtime import tune_for_cpu

COMMAND = command.Command('train', __doc__, reads=('base', 'tasks'), fills=('out',))
_OUT = flags.DEFINE_string(
  'out',
  None,
  'Directory of the run; continued if it holds the same run.',
  required=True,
  flag_values=COMMAND.flags,
)
_BASE = flags.DEFINE_string(
  'base', None, "Directory of the base; the substrate's if not given.", flag_values=COMMAND.flags
)
_TASKS = flags.DEFINE_string(
  'tasks',
  None,
  'JSONL file or folder of tasks of your own, in place of the puzzles.',
  flag_values=COMMAND.flags,
)
_TOKENS = flags.DEFINE_integer(
  'tokens',
  122_880,
  'Budget of padded tokens, steps x rows x row length; the default is that of a demo trial.',
  lower_bound=1,
  flag_values=COMMAND.flags,
)
_STEPS = flags.DEFINE_integer(
  'steps', 480, 'Budget of optimizer steps.', lower_bound=1, flag_values=COMMAND.flags
)
_RL_STEPS = flags.DEFINE_integer(
  'rl_steps',
  50,
  (
    "Steps where method.name is 'rl', 'dpo' or 'distill'; with 'sft_then_rl' or "
    "'sft_then_dpo' --tokens and --steps are for both, and method.share divides them."
  ),
  lower_bound=1,
  flag_values=COMMAND.flags,
)
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Of data and adapters.', lower_bound=0, flag_values=COMMAND.flags
)
_SIZE = flags.DEFINE_enum(
  'size', 'micro', ['micro', 'standard'], 'Puzzle size.', flag_values=COMMAND.flags
)
_CHECKPOINT_EVERY = flags.DEFINE_integer(
  'checkpoint_every',
  100,
  'Steps between checkpoints, from which an interrupted run continues; 0 for the last only.',
  lower_bound=0,
  flag_values=COMMAND.flags,
)

LINES = 20  # of progress
EXPORT = 'export'
RECORD = 'command.json'


@COMMAND
def main(arguments: list[str]) -> None:
  """Trains what the flags say."""
  tune_for_cpu()  # as trials and the evaluator do
  del arguments
  out = pathlib.Path(_OUT.value)
  base = layout.root_file('substrate') / 'base'
  if _BASE.value:
    base = pathlib.Path(_BASE.value)
  try:
    run_directory.refuse_foreign(out, run_directory.TRAIN)
    train(out, base)
  except run_directory.RunDirectoryError as error:
    sys.exit(f'train: {error}')
  except OSError as error:
    sys.exit(f'train: {faults.explain(error)}')
  except KeyboardInterrupt:
    sys.exit(f'\ntrain: interrupted; the same command continues from the last checkpoint in {out}')


def train(out: pathlib.Path, base: pathlib.Path) -> None:
  """Trains, exports and records the command.

  Args:
    out: directory of the run; it may hold an interrupted one.
    base: directory of the base.
  """
  # Imported here, so that a wrong flag is answered before JAX starts. The first registers what gin
  # may bind.
  from aevo_jax.checkpoint.resume import DamagedCheckpointError
  from aevo_jax.export import trained
  from aevo_jax.generation.protocol import InferenceError
  from aevo_jax.substrate.transfer import TransferError
  from aevo_jax.training import run_control
  from aevo_jax.training.rl.gates import StoppedError
  from aevo_jax.training.run_config import RunConfig
  from aevo_jax.training.train_loop import NonFiniteError

  with contextlib.ExitStack() as held:
    job = _prepare(out, base, held)
    print(_header(job, base), flush=True)
    steps: list[int] = []
    try:
      with run_control.stop_at_sigterm() as sigterm_came:
        run = RunConfig(
          checkpoint_every=_CHECKPOINT_EVERY.value,
          control=job.control,
          stop=sigterm_came,
          on_step=functools.partial(_print_step, job, steps),
          placement=job.placement,
        )
        final = job.run.train(job.plan, run)
        if sigterm_came():
          message = f'train: SIGTERM; saved, and the same command continues in {out}'
          print(message, file=sys.stderr, flush=True)
          sys.exit(128 + signal.SIGTERM)
    except (DamagedCheckpointError, NonFiniteError, StoppedError, InferenceError) as error:
      sys.exit(f'train: {error}')
    if not steps and _is_whole(out):
      print(
        f'the run was complete already, no step was left; its weights are in {out / EXPORT}; '
        f'score them with: aevo evaluate {out}'
      )
      return
    try:
      export = export_trained(base, out, final, job)
    except (trained.ExportError, TransferError) as error:
      sys.exit(f'train: {error}')
    _write_command(out, job.recipe.algorithm())
  left = '' if steps else 'no step was left; '
  print(f'{left}weights written to {export}; score them with: aevo evaluate {out}')


@dataclasses.dataclass(frozen=True)
class _Job:
  """A run that is checked and begun.

  Attributes:
    recipe: what gin binds.
    config: the model's.
    control: checkpoints that stay, and steps that are profiled.
    placement: on a mesh; None on one device.
    plan: numbers of steps.
    run: `post_train.Run`.
  """

  recipe: Any
  config: Any
  control: Any
  placement: Any
  plan: Any
  run: Any


def _prepare(out: pathlib.Path, base: pathlib.Path, held: contextlib.ExitStack) -> _Job:
  """Resolves gin, reads the base and the tasks, and begins the run; a mistake ends the command."""
  from safetensors import SafetensorError

  from aevo_jax.checkpoint.digest import ManifestError
  from aevo_jax.config.loading import LoadError
  from aevo_jax.generation.protocol import InferenceError
  from aevo_jax.models.hf import checkpoint
  from aevo_jax.training.recipe import recipe as recipe_lib

  try:
    pattern = checkpoint.read_config(base).pattern
    COMMAND.load_gin(layout.root_file('substrate') / 'recipe.gin', known={'model.pattern': pattern})
    return _begin_job(out, base, recipe_lib.from_gin(), held)
  except (LoadError, ValueError, SafetensorError, ManifestError, InferenceError) as error:
    sys.exit(f'train: {error}')


def _begin_job(out: pathlib.Path, base: pathlib.Path, recipe, held: contextlib.ExitStack) -> _Job:
  """Checks that everything goes together, and makes or continues the run's directory."""
  from aevo_jax.campaign.machine import allowance
  from aevo_jax.campaign.machine.probes import Machine
  from aevo_jax.checkpoint.digest import logical_digest
  from aevo_jax.config.configurables import override, resolve
  from aevo_jax.data import chat_template
  from aevo_jax.data import corpus as corpora
  from aevo_jax.data import tokenizer as tokenizers
  from aevo_jax.models import config as model_config
  from aevo_jax.models.hf import checkpoint
  from aevo_jax.training import placement as placement_lib
  from aevo_jax.training import post_train
  from aevo_jax.training.recipe.task_source import TaskSource
  from aevo_jax.training.recipe.token_budget import StepPlan, plan_steps

  vllm = _check_read(recipe)
  allowance.refuse_low_limit(base, Machine().memory_limit())
  config = override('model', checkpoint.read_config(base), model_config.EXECUTION)
  placement = placement_lib.from_gin(config, recipe.adaptation, recipe.lora)
  if placement:
    placement.layout.check_batch(recipe.train.batch_rows, recipe.train.row_length)
  if recipe.algorithm() and placement:
    method = recipe.method.name
    raise ValueError(f'method.name = {method!r} runs on one device; leave mesh.axes empty')
  params = _load_base(base, config, recipe, placement)
  started_with = _identity(recipe, config) | {'base': logical_digest(params)}
  own = _own_tasks(base, config, recipe)
  train_tasks = ()
  if own is not None:
    train_tasks = own.of_split('train')
    started_with['tasks'] = own.digest
  tasks = TaskSource(_SIZE.value, _SEED.value, corpora.load(base, train_tasks))
  tokenizer = tokenizers.load(str(base))
  if recipe.method.supervised:
    plan = plan_steps(recipe, tokenizer, tasks, tokens=_TOKENS.value, steps=_STEPS.value)
  else:
    plan = StepPlan(0, _RL_STEPS.value, 0)
  run = post_train.Run(config, recipe, params, tokenizer, tasks, directory=out, vllm=vllm)
  started_with['steps'] = [plan.sft_steps, plan.rl_steps]
  run_directory.begin(out, run_directory.TRAIN, started_with, held)
  origin = {'base': str(base.absolute())}
  (out / run_directory.ORIGIN).write_text(json.dumps(origin) + '\n')
  run_directory.record_devices(out, placement and placement.record())
  for remark in (*chat_template.remarks(str(base)), *checkpoint.remarks(base)):
    print(f'train: {remark}')
  return _Job(recipe, config, resolve('upkeep'), placement, plan, run)


def _header(job: _Job, base: pathlib.Path) -> str:
  """Words what the run is about to do."""
  from aevo_jax.training.recipe import header

  plan = job.plan
  recipe = job.recipe
  budget = f'{plan.rl_steps:,} steps'
  tokens = 'as many as are generated'
  if recipe.method.supervised:
    budget = f'{_TOKENS.value:,} tokens, {_STEPS.value:,} steps'
    tokens = f'{plan.tokens:,}'
  rows = {
    'recipe': header.changes(recipe.sections().items()),
    'model': f'{header.model(job.config)}, {job.config.compute_dtype}, from {base}',
    'method': header.method(recipe),
    'devices': header.devices(job.placement),
    'tokens': tokens,
    'steps': header.steps(plan, recipe),
    'budget': budget,
  }
  return header.text(rows)


def _check_read(recipe):
  """Refuses flags that this method does not read; returns the vLLM settings or None.

  Raises:
    ValueError: the message names the flag.
  """
  from aevo_jax.config.configurables import resolve

  method = recipe.method.name
  algorithm = recipe.algorithm()
  unread = (_TOKENS, _STEPS)
  instead = 'give --rl_steps'
  if recipe.method.supervised:
    unread = (_RL_STEPS,)
    instead = 'give --tokens and --steps'
  for flag in unread:
    if flag.present:
      raise ValueError(
        f'--{flag.name} is read by nothing while method.name = {method!r}; {instead}'
      )
  resolve('upkeep')
  if _TASKS.value and algorithm and algorithm.task.name != 'puzzles':
    raise ValueError(
      f'--tasks is read by nothing while environment.name = {algorithm.task.name!r}; '
      'leave one of them out'
    )
  if algorithm and algorithm.rollout.engine == 'vllm':
    return resolve('vllm')
  return None


def _load_base(base: pathlib.Path, config, recipe, placement) -> dict:
  """Reads the base's weights, each device its pieces, in the dtypes that training holds them in."""
  from aevo_jax.models import weights
  from aevo_jax.models.params import is_adapter, resident_dtype
  from aevo_jax.training import placement as placement_lib

  shardings = None
  if placement:
    trained, frozen, _ = placement_lib.shapes_of(config, recipe.adaptation, recipe.lora)
    shapes = {name: shape for name, shape in (trained | frozen).items() if not is_adapter(name)}
    shardings = placement.shardings_of_stored(shapes)
  dtype = functools.partial(resident_dtype, frozen=recipe.adaptation.method == 'lora')
  return weights.load(base, config, dtype=dtype, shardings=shardings)


def _identity(recipe, config) -> dict:
  """Collects what makes two runs the same; a gate that stopped a run may be moved."""
  from aevo_jax.checkpoint.digest import file_digest
  from aevo_jax.models import config as model_config

  bound = dataclasses.asdict(recipe)
  del bound['gates']
  identity = {
    'recipe': bound,
    'seed': _SEED.value,
    'size': _SIZE.value,
    'execution': {name: getattr(config, name) for name in model_config.EXECUTION},
  }
  if recipe.method.name == 'distill':
    teacher = pathlib.Path(recipe.algorithm().distillation.teacher)
    files = sorted(teacher.glob('*.safetensors'))
    identity['teacher'] = {path.name: file_digest(path) for path in files}
  return identity


def _own_tasks(base: pathlib.Path, config, recipe):
  """Reads --tasks and checks that they fit the model; None where the flag is not given.

  What an evaluation lets the model write is that command's business, so nothing is checked of it.
  """
  from aevo_jax.data import chat_template
  from aevo_jax.data import corpus as corpora
  from aevo_jax.data import tokenizer as tokenizers
  from aevo_jax.tasks import own_data

  if not _TASKS.value:
    return None
  algorithm = recipe.algorithm()
  verifier = 'strict'
  generated = {'max_new_tokens': None}
  if algorithm is not None:
    verifier = algorithm.reward.verifier
    generated = {
      'max_new_tokens': algorithm.rollout.max_new_tokens,
      'verifier': verifier,
      'room': 'rollout.max_new_tokens',
    }
  own = own_data.read(pathlib.Path(_TASKS.value), verifier=verifier)
  row_length = None
  if recipe.method.supervised:
    row_length = recipe.train.row_length
  corpora.check_fit(
    own,
    chat_template.read(str(base)),
    tokenizers.load(str(base)),
    max_positions=config.max_position_embeddings,
    row_length=row_length,
    **generated,
  )
  return own


def _is_whole(out: pathlib.Path) -> bool:
  """Tells whether an earlier process wrote all that a run leaves; its last file is command.json."""
  export = out / EXPORT
  has_weights = any(export.glob('*.safetensors'))
  return (out / RECORD).is_file() and (export / 'config.json').is_file() and has_weights


def _print_step(job: _Job, steps: list[int], step: int, scalars: dict[str, float]) -> None:
  """Notes a step; prints about `LINES` lines of a run, and the last step of each part."""
  steps.append(step)
  plan = job.plan
  is_last = step + 1 in (plan.sft_steps, plan.steps)
  if (step + 1) % max(1, plan.steps // LINES) != 0 and not is_last:
    return
  if step < plan.sft_steps or job.recipe.method.name == 'distill':
    learnt = f'loss {scalars["loss"]:.4f}'
  else:
    learnt = (
      'reward {reward:.3f}  pass {pass_rate:.3f}  length {response_length:.1f}  '
      'entropy {entropy:.2f}  '
      'gap {logprob_gap_max:.1e}  {tokens_per_s:.0f} tok/s'
    ).format(**scalars)
  print(f'step {step + 1:>5} of {plan.steps}  {learnt}  {scalars["seconds"]:.2f} s', flush=True)


def _write_command(out: pathlib.Path, algorithm) -> None:
  """Writes command.json, which `aevo status --add` reads."""
  facts = {
    'command': COMMAND.line,
    'campaign': COMMAND.flags.gin_file,
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'),
    'size': _SIZE.value,
  }
  if algorithm:
    facts['rollouts'] = algorithm.rollout.engine
  facts['machine'] = (
    f'{platform.machine()}, {platform.system()}, Python {platform.python_version()}, '
    f'{os.cpu_count()} cores'
  )
  (out / RECORD).write_text(json.dumps(facts, indent=1) + '\n')


def export_trained(base: pathlib.Path, out: pathlib.Path, final: dict, job: _Job) -> pathlib.Path:
  """Writes the weights as a base of their own, with a card, and the adapter where one was trained.

  Args:
    base: the base that was trained.
    out: the run's directory.
    final: trained parameters by our names.
    job: the run.

  Returns:
    The directory of the new base, below `out`.
  """
  from aevo_jax.export import trained
  from aevo_jax.models.hf import front_matter
  from aevo_jax.training import trained_adapter

  adapter = None
  if job.recipe.adaptation.method == 'lora':
    checkpoints = trained_adapter.last_checkpoints(out)
    adapter = trained_adapter.read(checkpoints, job.recipe.lora, job.config.pattern)
  started_with = json.loads((out / run_directory.TRAIN).read_text())
  export = out / EXPORT
  remarks = trained.write(
    trained.Trained(
      base=base,
      config=job.config,
      params=final,
      title='Weights trained by aevo train',
      facts={'command': COMMAND.line, 'steps': str(job.plan.steps)},
      base_model=front_matter.base_name(base),
      tasks=started_with.get('tasks', trained.PUZZLES),
      adapter=adapter,
    ),
    export,
  )
  for remark in remarks:
    print(remark)
  return export


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
