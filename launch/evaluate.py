"""Score weights on a set of puzzles, or on the tasks of lm-evaluation-harness.

  aevo evaluate substrate/base
  aevo evaluate runs/demo/trials/r2w5/export/model.safetensors --items=300
  aevo evaluate my_run --verifier=challenge --json
  aevo evaluate my_run --split=external --secret_file=mine.json
  aevo evaluate my_run --gin_file=configs/meshes/fsdp.gin
  aevo evaluate my_run --gin.evaluation.engine=vllm
  aevo evaluate my_adapter --base=my_base --gin_file=configs/engines/challenge.gin
  aevo evaluate my_run --harness=lm_eval --tasks=a,b --include_path=DIR

The weights are a base (in shards or imported, too), a safetensors file, the --out of `aevo train`,
or a LoRA adapter in PEFT's form; a mesh spreads them over this machine's devices
(docs/sharding.md). Prints accuracy by family with 95% Wilson intervals. A private set
of your own is drawn with a secret: mine.json holds {"secret": "64 hex digits"}. With
evaluation.engine = 'vllm', and for the harness, a vLLM server answers. The sets are those of
constitution.gin, which --gin_file and --gin_bindings override (dev_set.seed,
external_set.rare_share, tasks.path, ...).
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from absl import app, flags

from aevo_jax import command, faults, layout
from aevo_jax.evaluation import model_files
from aevo_jax.evaluation.model_files import StoredModelError
from aevo_jax.runtime import tune_for_cpu

COMMAND = command.Command(
  'evaluate',
  __doc__,
  takes=('WEIGHTS',),
  reads=('WEIGHTS', 'base', 'secret_file', 'include_path'),
)
_BASE = flags.DEFINE_string(
  'base',
  None,
  (
    "Directory with the weights' config.json and tokenizer.json; where the weights lie if "
    "they are there, else the substrate's base."
  ),
  flag_values=COMMAND.flags,
)
_SPLIT = flags.DEFINE_enum(
  'split',
  'dev',
  ['dev', 'external', 'final'],
  'Which set. External and final need --secret_file.',
  flag_values=COMMAND.flags,
)
_SECRET = flags.DEFINE_string(
  'secret_file',
  None,
  (
    'JSON file {"secret": "hex digits"} that a private set is drawn with: your own, or one '
    'a campaign has revealed.'
  ),
  flag_values=COMMAND.flags,
)
_ITEMS = flags.DEFINE_integer(
  'items',
  None,
  "Size of the set, if not the constitution's.",
  lower_bound=1,
  flag_values=COMMAND.flags,
)
_VERIFIER = flags.DEFINE_string(
  'verifier',
  None,
  'How answers are compared, if not as the constitution says (objective.verifier).',
  flag_values=COMMAND.flags,
)
_JSON = flags.DEFINE_bool('json', False, 'Print JSON.', flag_values=COMMAND.flags)
_HARNESS = flags.DEFINE_enum(
  'harness',
  None,
  ['lm_eval'],
  (
    'Run the tasks of this library instead of the puzzles: lm-evaluation-harness (make '
    'harness), through a vLLM server (vllm.*).'
  ),
  flag_values=COMMAND.flags,
)
_TASKS = flags.DEFINE_list(
  'tasks', [], 'TASK,...: with --harness, names of its tasks and groups.', flag_values=COMMAND.flags
)
_INCLUDE = flags.DEFINE_string(
  'include_path',
  None,
  'With --harness: directory with YAML files of further tasks.',
  flag_values=COMMAND.flags,
)
_LIMIT = flags.DEFINE_integer(
  'limit',
  None,
  'With --harness: of each task the first items alone.',
  lower_bound=1,
  flag_values=COMMAND.flags,
)
_FEWSHOT = flags.DEFINE_integer(
  'num_fewshot',
  None,
  "With --harness: examples before each question, if not the task's own number.",
  lower_bound=0,
  flag_values=COMMAND.flags,
)
_CHAT = flags.DEFINE_bool(
  'apply_chat_template',
  False,
  "With --harness: ask in the base's chat format.",
  flag_values=COMMAND.flags,
)
_SAMPLES = flags.DEFINE_string(
  'samples',
  None,
  'With --harness: write every item with its requests and answers to this file, JSON lines.',
  flag_values=COMMAND.flags,
)

# Flags that only one of the two kinds of evaluation reads.
OF_PUZZLES = ('split', 'secret_file', 'items', 'verifier')
OF_HARNESS = ('tasks', 'include_path', 'limit', 'num_fewshot', 'apply_chat_template', 'samples')
MIN_SECRET_BYTES = 16


class EvaluateError(ValueError):
  """The request cannot be served; the message names the fix."""


@COMMAND
def main(arguments: list[str]) -> None:
  """Scores the weights and prints the result."""
  tune_for_cpu()  # as trials and the evaluator do
  _check_flags()
  try:
    weights = model_files.find_weights(pathlib.Path(arguments[0]))
    if _BASE.value:
      base = pathlib.Path(_BASE.value)
    else:
      base = model_files.find_base(weights)
    if _HARNESS.value:
      result = harness(weights, base)
    else:
      result = evaluate(weights, base)
  except (EvaluateError, StoredModelError) as error:
    sys.exit(f'evaluate: {error}')
  except OSError as error:
    sys.exit(f'evaluate: {faults.explain(error)}')
  except KeyboardInterrupt:
    sys.exit('\nevaluate: interrupted')
  if _JSON.value:
    print(json.dumps(result, indent=2))
  elif _HARNESS.value:
    print(harness_table(result))
  else:
    print(table(result))


def _check_flags() -> None:
  """Raises UsageError where flags do not go together."""
  if _HARNESS.value:
    unread = OF_PUZZLES
    why = 'with --harness; leave it out'
  else:
    unread = OF_HARNESS
    why = 'without --harness; leave it out, or give --harness=lm_eval'
  for name in unread:
    if COMMAND.flags[name].present:
      raise app.UsageError(f'--{name} is read by nothing {why}')
  if _HARNESS.value and not _TASKS.value:
    raise app.UsageError('--harness=lm_eval needs --tasks=NAME,NAME')
  if _SPLIT.value == 'dev' and _SECRET.value is not None:
    raise app.UsageError('--split=dev is drawn with a public seed; leave out --secret_file')
  if _SPLIT.value != 'dev' and _SECRET.value is None:
    raise app.UsageError(
      f'--split={_SPLIT.value} is drawn with a secret; give --secret_file=FILE with '
      '{"secret": "hex digits"}'
    )


def read_secret(path: pathlib.Path) -> bytes:
  """Reads the secret of a private set.

  Args:
    path: a JSON file {"secret": "hex digits"}.

  Returns:
    The secret's bytes.

  Raises:
    EvaluateError: the file holds something else, or fewer than 16 bytes.
  """
  try:
    secret = bytes.fromhex(json.loads(path.read_text())['secret'])
  except (ValueError, KeyError, TypeError) as error:
    raise EvaluateError(
      f'{path} is not {{"secret": "hex digits"}} ({type(error).__name__}: {error})'
    ) from None
  if len(secret) < MIN_SECRET_BYTES:
    raise EvaluateError(
      f'the secret in {path} has {len(secret)} bytes; {MIN_SECRET_BYTES} are the least '
      'that nobody guesses (python -c "import secrets; print(secrets.token_hex())")'
    )
  return secret


def evaluate(weights: pathlib.Path, base: pathlib.Path) -> dict:
  """Scores weights on the set that the flags name.

  Args:
    weights: what `model_files.find_weights` returned.
    base: directory with config.json and tokenizer.

  Returns:
    Digest of the weights, the set's digest, and accuracies with intervals.
  """
  # Imported here, so that a wrong flag is answered before JAX starts. `setup` registers what a
  # campaign's gin may bind.
  from aevo_jax.campaign.setup import setup
  from aevo_jax.config.configurables import resolve
  from aevo_jax.config.loading import LoadError
  from aevo_jax.evaluation import scoring, sets, vllm_scoring
  from aevo_jax.training.recipe import header

  COMMAND.load_gin(layout.root_file('constitution.gin'))
  try:
    settings = resolve('vllm')
    constitution = _constitution()
    vllm_scoring.refuse_transport(settings, weights)
    own = sets.own_tasks(constitution, setup.tasks_path(constitution.tasks.path))
    if _SPLIT.value == 'dev':
      items = sets.dev_items(constitution, own)
    else:
      secret = read_secret(pathlib.Path(_SECRET.value))
      items = sets.private_items(constitution, _SPLIT.value, secret, own)
    model, placement = _read_model(weights, base)
  except (LoadError, ValueError) as error:
    raise EvaluateError(str(error)) from error
  objective = constitution.objective
  tasks = constitution.tasks.path or f'{objective.size} puzzles'
  rows = {
    'model': f'{header.model(model.config)}, from {weights}',
    'engine': constitution.evaluation.engine,
    'devices': header.devices(placement),
    'items': f'{len(items):,} of {tasks}, {_SPLIT.value}',
    'tokens': f'{objective.max_new_tokens} new ones an answer at most',
    'scored by': objective.verifier,
  }
  print(header.text(rows), file=sys.stderr, flush=True)

  def score(sampler=None) -> list[scoring.ItemResult]:
    scorer = scoring.Scorer(
      model.structure,
      model.tokenizer,
      items,
      max_new_tokens=objective.max_new_tokens,
      chat=model.chat,
      verifier=objective.verifier,
      sampler=sampler,
    )
    return scorer(model.params)

  served = {}
  if constitution.evaluation.engine == 'jax':
    with placement.use_for_generation() if placement else contextlib.nullcontext():
      results = score()
  else:
    with _served_sampler(model, base, weights, settings, objective.max_new_tokens) as sampler:
      results = score(sampler)
      served = {'engine': 'vllm', 'served_digest': sampler.digest}
  facts = {'split': _SPLIT.value, 'items_digest': sets.items_digest(items)}
  summary = scoring.summary(results, objective.verifier)
  return {'weights': str(weights)} | model.digest | served | facts | summary


def _read_model(weights: pathlib.Path, base: pathlib.Path):
  """Reads the model to the devices of the mesh, if gin names one.

  Returns:
    `stored_model.StoredModel`, and its placement or None.

  Raises:
    ValueError: the mesh does not fit, or the weights are wrong.
  """
  from aevo_jax.evaluation import stored_model
  from aevo_jax.models.hf import checkpoint
  from aevo_jax.models.params import outline
  from aevo_jax.training import placement as placement_lib

  config = checkpoint.read_config(base)
  placement = placement_lib.from_gin(config)
  shardings = None
  if placement:
    shardings = placement.shardings_of_stored(outline(config)[1])
  return stored_model.read(weights, base, shardings), placement


def _constitution():
  """Resolves the constitution, with the flags' number of items and verifier."""
  from aevo_jax.config import constitution as constitution_lib
  from aevo_jax.config.inference import Vllm

  # A campaign shares its vLLM settings with the arbiter, under rules of their own: none apply here.
  constitution = constitution_lib.from_gin(vllm=Vllm())
  if _ITEMS.value is not None:
    section = f'{_SPLIT.value}_set'
    items = dataclasses.replace(getattr(constitution, section), items=_ITEMS.value)
    constitution = dataclasses.replace(constitution, **{section: items})
  if _VERIFIER.value is not None:
    objective = dataclasses.replace(constitution.objective, verifier=_VERIFIER.value)
    constitution = dataclasses.replace(constitution, objective=objective)
  return constitution


@contextlib.contextmanager
def _served_sampler(
  model, base: pathlib.Path, weights: pathlib.Path, settings, max_new_tokens: int
) -> Iterator[Any]:
  """Yields a sampler that asks a vLLM server, which has loaded the weights."""
  from aevo_jax.evaluation import vllm_scoring
  from aevo_jax.evaluation.servers.protocol import UnavailableError
  from aevo_jax.generation.protocol import InferenceError

  with vllm_scoring.server_log(UnavailableError, InferenceError) as log:
    from aevo_jax.evaluation.served import ServedSampler

    server = vllm_scoring.engine(settings, base, model, log)
    with contextlib.closing(ServedSampler(server, max_new_tokens=max_new_tokens)) as sampler:
      vllm_scoring.load_weights(sampler, settings, weights, model)
      yield sampler


def harness(weights: pathlib.Path, base: pathlib.Path) -> dict:
  """Runs the tasks of lm-evaluation-harness that the flags name.

  Args:
    weights: what `model_files.find_weights` returned.
    base: directory with config.json and tokenizer.

  Returns:
    Digests, versions and the harness's own results.
  """
  from aevo_jax.evaluation import harness as harness_lib
  from aevo_jax.evaluation import stored_model, vllm_scoring
  from aevo_jax.generation.protocol import InferenceError

  settings = _harness_settings(weights)
  if _SAMPLES.value:
    # A file that cannot be written is an error before hours are spent.
    pathlib.Path(_SAMPLES.value).touch()
  model = stored_model.read(weights, base)
  with (
    vllm_scoring.server_log(InferenceError) as log,
    vllm_scoring.engine(settings, base, model, log) as server,
  ):
    answers = harness_lib.Answers(
      server,
      model.tokenizer,
      model.chat,
      max_model_len=settings.max_model_len,
      start=lambda: vllm_scoring.load_weights(server, settings, weights, model),
    )
    results = harness_lib.run(
      answers,
      _TASKS.value,
      include_path=_INCLUDE.value,
      limit=_LIMIT.value,
      num_fewshot=_FEWSHOT.value,
      chat=_CHAT.value,
    )
    served = {'served_digest': server.digest, 'vllm_version': server.vllm_version()}
  if _SAMPLES.value:
    harness_lib.write_samples(pathlib.Path(_SAMPLES.value), results)
  return {'weights': str(weights)} | model.digest | served | harness_lib.report(results)


def _harness_settings(weights: pathlib.Path):
  """Resolves gin's section `vllm`; an engine that the harness cannot ask is refused."""
  from aevo_jax.config.configurables import bound, resolve
  from aevo_jax.config.loading import LoadError
  from aevo_jax.evaluation import harness as harness_lib
  from aevo_jax.evaluation import vllm_scoring

  COMMAND.load_gin(mode='--harness')
  try:
    if bound('evaluation') and resolve('evaluation').engine != 'vllm':
      raise EvaluateError('the harness asks a vLLM server; leave evaluation.engine out')
    settings = resolve('vllm')
    vllm_scoring.refuse_transport(settings, weights)
    harness_lib.check_installed()
  except (LoadError, harness_lib.HarnessError) as error:
    raise EvaluateError(str(error)) from error
  return settings


def harness_table(result: Mapping[str, Any]) -> str:
  """Writes the harness's results as plain text."""
  from aevo_jax.evaluation import harness as harness_lib

  rows = [('task', 'metric', 'value', 'stderr', 'n')]
  for task, metric, value, error, n in harness_lib.rows(result):
    shown = ''
    if error is not None:
      shown = f'{error:.4f}'
    rows.append((task, metric, f'{value:.4f}', shown, str(n)))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = [
    f'{result["weights"]} with SHA-256 {result["served_digest"]}, lm_eval '
    f'{result["lm_eval_version"]}, vLLM {result["vllm_version"]}'
  ]
  for task, metric, *numbers in rows:
    cells = [task.ljust(widths[0]), metric.ljust(widths[1])]
    for number, width in zip(numbers, widths[2:], strict=True):
      cells.append(number.rjust(width))
    lines.append('  '.join(cells))
  return '\n'.join(lines)


def table(result: Mapping[str, Any]) -> str:
  """Writes accuracies by family as plain text."""
  other = result['other_verifier']
  rows = dict(result['by_family'])
  rows['overall'] = result['overall']
  rows[f'overall, {other["verifier"]} verifier'] = other
  width = max(map(len, rows))
  lines = [
    f'{result["weights"]} on {result["overall"]["total"]} {result["split"]} items, '
    f'{result["verifier"]} verifier'
  ]
  for name, score in rows.items():
    interval = f'[{score["low"]:.3f}, {score["high"]:.3f}]'
    lines.append(
      f'{name:<{width}}  {score["accuracy"]:.3f} {interval}  {score["correct"]}/{score["total"]}'
    )
  return '\n'.join(lines)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
