"""Train one recipe on the base, outside of any campaign: what a trial does, in the foreground and
as long as you like.

  aevo train --out=my_run                                              the substrate's default
  recipe aevo train --gin.optimizer.learning_rate=4e-3 --tokens=500000 --out=my_run
  aevo train --base=my_base --gin_file=my_recipe.gin --out=my_run      another base: a Hugging Face
  checkpoint, or what import_hf made of it aevo train --gin_file=configs/meshes/fsdp.gin
  --out=my_run           sharded over this machine's devices; see docs/sharding.md aevo train
  --tasks=my_tasks.jsonl --out=my_run                       tasks of your own, of which the train
  split is trained on aevo train --base=my_run/export --gin_file=configs/algorithms/grpo.gin
  --gin.optimizer.learning_rate=5e-5 --out=my_rl     reinforcement learning; see
  docs/reinforcement.md

Writes metrics.jsonl, tensorboard/, checkpoints/ and, at the end, export/ (weights with config and
tokenizer: a base of its own) into --out. Run again after an interrupt with the same flags, it
continues, after SIGTERM from the very step; `aevo evaluate my_run` scores it.
"""

import dataclasses
import datetime
import functools
import json
import os
import pathlib
import platform
import shutil
import signal
import sys

from absl import app, flags, logging

from aevo_jax import command, faults, layout
from aevo_jax.runtime import tune_for_cpu

COMMAND = command.Command('train', __doc__)
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

STARTED_WITH = 'train.json'
LINES = 20  # of progress


@COMMAND
def main(arguments: list[str]) -> None:
  tune_for_cpu()  # as trials and the evaluator do
  if arguments:
    raise app.UsageError(f'unexpected arguments: {" ".join(arguments)}')
  out = pathlib.Path(_OUT.value)
  base = pathlib.Path(_BASE.value) if _BASE.value else layout.root_file('substrate') / 'base'
  try:
    train(out, base)
  except OSError as error:
    sys.exit(f'train: {faults.explain(error)}')
  except KeyboardInterrupt:
    sys.exit(f'\ntrain: interrupted; the same command continues from the last checkpoint in {out}')


def train(out: pathlib.Path, base: pathlib.Path) -> None:
  """Trains what the flags say."""
  from aevo_jax.models import config as model_config  # these three register what gin may bind
  from aevo_jax.training import placement as placement_lib
  from aevo_jax.training import run_control
  from aevo_jax.training.recipe import recipe as recipe_lib
  from aevo_jax.training.rl import run as rl_run

  COMMAND.load_gin(layout.root_file('substrate') / 'recipe.gin')
  # Imported here, so that a wrong flag is answered before JAX starts.
  from safetensors import SafetensorError

  from aevo_jax.checkpoint.digest import ManifestError, file_digest, logical_digest
  from aevo_jax.config.configurables import bound, override, resolve
  from aevo_jax.config.loading import LoadError
  from aevo_jax.data import chat_template
  from aevo_jax.data import corpus as corpora
  from aevo_jax.data import tokenizer as tokenizers
  from aevo_jax.generation.protocol import InferenceError
  from aevo_jax.models import weights
  from aevo_jax.models.hf import checkpoint
  from aevo_jax.models.params import is_adapter, resident_dtype
  from aevo_jax.tasks import own_data
  from aevo_jax.training import post_train
  from aevo_jax.training.recipe.task_source import TaskSource
  from aevo_jax.training.recipe.token_budget import StepPlan, plan_steps
  from aevo_jax.training.rl.gates import StoppedError
  from aevo_jax.training.run_config import RunConfig
  from aevo_jax.training.train_loop import NonFiniteError

  logging.set_verbosity(logging.WARNING)
  try:
    recipe = recipe_lib.from_gin()
    method, algorithm = recipe.method.name, recipe.algorithm()
    rl_run.refuse_unread_sections(method)
    for flag in (_RL_STEPS,) if recipe.method.supervised else (_TOKENS, _STEPS):
      if flag.present:
        raise ValueError(
          f'--{flag.name} is read by nothing while method.name = {method!r}; '
          + ('give --tokens and --steps' if recipe.method.supervised else 'give --rl_steps')
        )
    control = resolve('upkeep')
    vllm = resolve('vllm') if algorithm and algorithm.rollout.engine == 'vllm' else None
    if vllm is None and (fields := bound('vllm')):
      raise LoadError(
        f"vllm.{fields[0]} is bound, and nothing reads vllm while rollout.engine = 'jax'; "
        "leave it out, or bind rollout.engine = 'vllm'"
      )
    config = override('model', checkpoint.read_config(base), model_config.EXECUTION)
    placement = placement_lib.from_gin(config, recipe)
    if algorithm and placement:
      raise ValueError(f'method.name = {method!r} runs on one device; leave mesh.axes empty')
    shardings = None
    if placement:
      trained, frozen, _ = placement_lib.shapes_of(config, recipe.adaptation, recipe.lora)
      shardings = placement.params(
        {name: shape for name, shape in (trained | frozen).items() if not is_adapter(name)}
      )
    parameters = weights.load(
      base,
      config,
      dtype=functools.partial(resident_dtype, frozen=recipe.adaptation.method == 'lora'),
      shardings=shardings,
    )
    started_with = {
      'recipe': {
        name: value for name, value in dataclasses.asdict(recipe).items() if name != 'gates'
      },  # a gate that stopped a run may be moved
      'seed': _SEED.value,
      'size': _SIZE.value,
      'execution': {name: getattr(config, name) for name in model_config.EXECUTION},
      'base': logical_digest(parameters),
    }
    if method == 'distill':
      started_with['teacher'] = {
        path.name: file_digest(path)
        for path in sorted(pathlib.Path(algorithm.distillation.teacher).glob('*.safetensors'))
      }
    if _TASKS.value and algorithm and algorithm.task.name != 'puzzles':
      raise ValueError(
        f'--tasks is read by nothing while environment.name = {algorithm.task.name!r}; '
        'leave one of them out'
      )
    own = (
      own_data.read(
        pathlib.Path(_TASKS.value), verifier=algorithm.reward.verifier if algorithm else 'strict'
      )
      if _TASKS.value
      else None
    )
    if own is not None:  # what an evaluation lets the model write is its own gin's business
      generated = (
        {'max_new_tokens': None}
        if algorithm is None
        else {
          'max_new_tokens': algorithm.rollout.max_new_tokens,
          'verifier': algorithm.reward.verifier,
          'room': 'rollout.max_new_tokens',
        }
      )
      corpora.check_fit(
        own,
        chat_template.read(str(base)),
        tokenizers.load(str(base)),
        max_positions=config.max_position_embeddings,
        row_length=recipe.train.row_length if recipe.method.supervised else None,
        **generated,
      )
    corpus = corpora.load(base, own.of_split('train') if own is not None else ())
    tasks = TaskSource(_SIZE.value, _SEED.value, corpus)
    tokenizer = tokenizers.load(str(base))
    plan = (
      plan_steps(recipe, tokenizer, tasks, tokens=_TOKENS.value, steps=_STEPS.value)
      if recipe.method.supervised
      else StepPlan(0, _RL_STEPS.value, 0)
    )
    prepared = post_train.Run(
      config, recipe, parameters, tokenizer, tasks, directory=out, vllm=vllm
    )
    begin(
      out,
      started_with
      | {'steps': [plan.sft_steps, plan.rl_steps]}
      | ({} if own is None else {'tasks': own.digest}),
    )
  except (LoadError, ValueError, SafetensorError, ManifestError, InferenceError) as error:
    sys.exit(f'train: {error}')

  def on_step(step: int, scalars: dict[str, float]) -> None:
    if (step + 1) % max(1, plan.steps // LINES) == 0 or step + 1 in (plan.sft_steps, plan.steps):
      learnt = (
        f'loss {scalars["loss"]:.4f}'
        if step < plan.sft_steps or method == 'distill'
        else (
          'reward {reward:.3f}  pass {pass_rate:.3f}  length {response_length:.1f}  '
          'entropy {entropy:.2f}  '
          'gap {logprob_gap_max:.1e}  {tokens_per_s:.0f} tok/s'
        ).format(**scalars)
      )
      print(f'step {step + 1:>5} of {plan.steps}  {learnt}  {scalars["seconds"]:.2f} s', flush=True)

  try:
    with run_control.stop_at_sigterm() as sigterm_came:
      final = prepared.train(
        plan,
        RunConfig(
          checkpoint_every=_CHECKPOINT_EVERY.value,
          control=control,
          stop=sigterm_came,
          on_step=on_step,
          placement=placement,
        ),
      )
      if sigterm_came():
        print(
          f'train: SIGTERM; saved, and the same command continues in {out}',
          file=sys.stderr,
          flush=True,
        )
        sys.exit(128 + signal.SIGTERM)
  except (NonFiniteError, StoppedError, InferenceError) as error:
    sys.exit(f'train: {error}')
  export = write_export(base, out, final, config)
  (out / 'command.json').write_text(
    json.dumps(
      {
        'command': COMMAND.line,
        'campaign': COMMAND.flags.gin_file,
        'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'),
        'size': _SIZE.value,
        **({'rollouts': algorithm.rollout.engine} if algorithm else {}),
        'machine': (
          f'{platform.machine()}, {platform.system()}, Python {platform.python_version()}, '
          f'{os.cpu_count()} cores'
        ),
      },
      indent=1,
    )
    + '\n'
  )
  print(f'weights written to {export}; score them with: aevo evaluate {out}')


def write_export(base: pathlib.Path, out: pathlib.Path, final: dict, config) -> pathlib.Path:
  """Writes the weights as a base of their own into the run's directory, and returns where."""
  from safetensors import SafetensorError

  from aevo_jax.models.hf import checkpoint
  from aevo_jax.substrate import hf_export, source, transfer

  export = out / 'export'
  if (
    base / source.FILE
    # an import: in its dtypes and shards, with the tensors that the forward does not use
  ).is_file():
    shutil.rmtree(export, ignore_errors=True)
    hf_export.export_hf(base, export, params=final)
  else:
    export.mkdir(exist_ok=True)
    try:
      checkpoint.save_weights(export / checkpoint.WEIGHTS, final, config)
    except SafetensorError as error:
      sys.exit(f'train: {export / checkpoint.WEIGHTS}: {error}')
    for name in transfer.CARRIED:
      if (base / name).is_file():
        shutil.copyfile(base / name, export / name)
  return export


def begin(out: pathlib.Path, started_with: dict) -> None:
  """Makes the run's directory, or checks that what lies there is this run.

  Raises:
    ValueError: another run lies there; the message says in what it differs.
  """
  out.mkdir(parents=True, exist_ok=True)
  path = out / STARTED_WITH
  if path.exists():
    before, now = _flat(json.loads(path.read_text())), _flat(json.loads(json.dumps(started_with)))
    differences = [
      f'{name} was {before.get(name)!r} and is {now.get(name)!r} now'
      for name in sorted(before.keys() | now.keys())
      if before.get(name) != now.get(name)
    ]
    if differences:
      raise ValueError(
        f'{out} holds another run: {"; ".join(differences)}. Choose another --out, or '
        'give the same settings to continue it'
      )
  elif any(out.iterdir()):
    raise ValueError(
      f'{out} is not empty and not a run of `aevo train` (it has no {STARTED_WITH}); '
      'choose another --out'
    )
  else:
    path.write_text(json.dumps(started_with, indent=1, sort_keys=True) + '\n')


def _flat(values: dict, prefix: str = '') -> dict:
  flat = {}
  for name, value in values.items():
    flat |= (
      _flat(value, f'{prefix}{name}.') if isinstance(value, dict) else {f'{prefix}{name}': value}
    )
  return flat


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
