"""Score weights on a set of puzzles: accuracy per family with 95% Wilson intervals; or on the tasks
of lm-evaluation-harness.

  aevo evaluate substrate/base                                  a base (in shards or imported too),
  or the --out of `aevo train` aevo evaluate runs/demo/trials/r2w5/export/model.safetensors
  --items=300 aevo evaluate my_run --verifier=challenge --json
  aevo evaluate my_run --split=external --secret_file=mine.json a private set of your own:
  {"secret": "64 hex digits"} aevo evaluate my_run --gin.evaluation.engine="'vllm'"         answered
  by a vLLM server aevo evaluate my_adapter --base=my_base --gin_file=configs/engines/challenge.gin
  a LoRA adapter in PEFT's form, as the public challenge scores it aevo evaluate my_run
  --harness=lm_eval --tasks=a,b --include_path=DIR     tasks of lm-evaluation-harness, answered by a
  vLLM server

The sets are those of constitution.gin, which --gin_file and --gin_bindings override (dev_set.seed,
external_set.rare_share, tasks.path, ...).
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from absl import app, flags, logging

from aevo_jax import command, faults, layout
from aevo_jax.runtime import tune_for_cpu

COMMAND = command.Command('evaluate', __doc__)
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
  'tasks', [], 'With --harness: names of its tasks and groups.', flag_values=COMMAND.flags
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

OF_PUZZLES, OF_HARNESS = (
  ('split', 'secret_file', 'items', 'verifier'),
  ('tasks', 'include_path', 'limit', 'num_fewshot', 'apply_chat_template', 'samples'),
)
WEIGHTS, CONFIG, INDEX = 'model.safetensors', 'config.json', 'model.safetensors.index.json'
ADAPTER, ADAPTER_CONFIG = 'adapter_model.safetensors', 'adapter_config.json'
MIN_SECRET_BYTES = 16


class EvaluateError(ValueError):
  """The request cannot be served; the message names the fix."""


@COMMAND
def main(arguments: list[str]) -> None:
  tune_for_cpu()  # as trials and the evaluator do
  if len(arguments) != 1:
    raise app.UsageError('say which weights: aevo evaluate WEIGHTS_OR_DIRECTORY')
  for name in OF_PUZZLES if _HARNESS.value else OF_HARNESS:
    if COMMAND.flags[name].present:
      raise app.UsageError(
        (
          f'--{name} is read by nothing {"with" if _HARNESS.value else "without"} '
          '--harness; leave it out'
        )
        + ('' if _HARNESS.value else ', or give --harness=lm_eval')
      )
  if _HARNESS.value and not _TASKS.value:
    raise app.UsageError('--harness=lm_eval needs --tasks=NAME,NAME')
  if (_SPLIT.value == 'dev') != (_SECRET.value is None):
    raise app.UsageError(
      f'--split={_SPLIT.value} '
      + (
        'is drawn with a public seed; leave out --secret_file'
        if _SPLIT.value == 'dev'
        else 'is drawn with a secret; give --secret_file=FILE with {"secret": "hex digits"}'
      )
    )
  try:
    weights = find_weights(pathlib.Path(arguments[0]))
    base = pathlib.Path(_BASE.value) if _BASE.value else find_base(weights)
    result = harness(weights, base) if _HARNESS.value else evaluate(weights, base)
  except EvaluateError as error:
    sys.exit(f'evaluate: {error}')
  except OSError as error:
    sys.exit(f'evaluate: {faults.explain(error)}')
  except KeyboardInterrupt:
    sys.exit('\nevaluate: interrupted')
  print(
    json.dumps(result, indent=2)
    if _JSON.value
    else harness_table(result)
    if _HARNESS.value
    else table(result)
  )


def find_base(weights: pathlib.Path) -> pathlib.Path:
  """What belongs to weights of which no base is named.

  Raises:
    EvaluateError: an adapter whose base is not on this machine.
  """
  beside = weights if weights.is_dir() else weights.parent
  if weights.name == ADAPTER:
    named = json.loads((beside / ADAPTER_CONFIG).read_text()).get('base_model_name_or_path') or ''
    if not (pathlib.Path(named) / CONFIG).exists():
      raise EvaluateError(
        f'{beside} is an adapter on {named or "an unnamed base"}, which is no directory '
        'here; give its directory with --base'
      )
    return pathlib.Path(named)
  return beside if (beside / CONFIG).exists() else layout.root_file('substrate') / 'base'


def refuse_other_base(adapter: pathlib.Path, base: pathlib.Path) -> None:
  """Raises EvaluateError if the adapter names a base on this machine that has other weights."""
  from aevo_jax.checkpoint.digest import logical_digest
  from aevo_jax.models import weights as weights_lib
  from aevo_jax.models.hf import checkpoint

  named = pathlib.Path(
    json.loads((adapter / ADAPTER_CONFIG).read_text()).get('base_model_name_or_path') or ''
  )
  if (named / CONFIG).is_file() and not named.samefile(base):
    first, second = (
      logical_digest(weights_lib.load(path, checkpoint.read_config(path))) for path in (named, base)
    )
    if first != second:
      raise EvaluateError(
        f'{adapter} is an adapter on {named}, and {base} has other weights; leave --base '
        'out, or give the base that it was trained on'
      )


def find_weights(path: pathlib.Path) -> pathlib.Path:
  """The safetensors file that is meant by a file, a base, export or adapter directory, a trial or a
  run of `aevo train`; a directory itself where it holds shards or an import.

  Raises:
    EvaluateError: there is none.
  """
  for directory in (path, path / 'export'):
    if (directory / INDEX).is_file() or (
      (directory / 'checkpoint').is_dir() and (directory / CONFIG).is_file()
    ):
      return directory
  candidates = (
    [path]
    if path.is_file()
    else [path / ADAPTER]
    if (path / ADAPTER_CONFIG).is_file()
    else [path / WEIGHTS, path / 'export' / WEIGHTS]
  )
  found = next((p for p in candidates if p.is_file()), None)
  if found is None:
    raise EvaluateError(
      (
        f'{path} holds no {WEIGHTS}, nor export/{WEIGHTS}; give a safetensors file or a '
        'directory with one'
      )
      if path.is_dir()
      else f'there is no {path}'
    )
  return found


def read_secret(path: pathlib.Path) -> bytes:
  """The secret of a private set.

  Raises:
    EvaluateError: not {"secret": hex digits of 16 bytes or more}.
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
  """Scores weights on the set that the flags name."""
  from aevo_jax.campaign import setup  # registers what a campaign's gin may bind
  from aevo_jax.config import constitution as constitution_lib

  COMMAND.load_gin(layout.root_file('constitution.gin'))
  # Imported here, so that a wrong flag is answered before JAX starts.
  from aevo_jax.config.configurables import bound, resolve
  from aevo_jax.config.inference import Vllm
  from aevo_jax.config.loading import LoadError
  from aevo_jax.evaluation import scoring, sets
  from aevo_jax.evaluation.servers.protocol import UnavailableError
  from aevo_jax.generation.protocol import InferenceError

  logging.set_verbosity(logging.WARNING)
  section = f'{_SPLIT.value}_set'
  try:
    settings = resolve('vllm')
    if resolve('evaluation').engine == 'jax' and (fields := bound('vllm')):
      raise EvaluateError(
        f'vllm.{fields[0]} is bound, and nothing reads vllm while evaluation.engine = '
        "'jax'; leave it out, or bind evaluation.engine = 'vllm'"
      )
    refuse_arbiter(bound('evaluation'))
    constitution = constitution_lib.from_gin(
      vllm=Vllm()
    )  # which a campaign shares with its arbiter, under rules of their own
    refuse_carrier(settings, weights)
    definition = getattr(constitution, section)
    if _ITEMS.value is not None:
      constitution = dataclasses.replace(
        constitution, **{section: dataclasses.replace(definition, items=_ITEMS.value)}
      )
    if _VERIFIER.value is not None:
      constitution = dataclasses.replace(
        constitution,
        objective=dataclasses.replace(constitution.objective, verifier=_VERIFIER.value),
      )
    verifier, own = (
      constitution.objective.verifier,
      sets.own_tasks(constitution, setup.tasks_path(constitution.tasks.path)),
    )
    items = (
      sets.dev_items(constitution, own)
      if _SPLIT.value == 'dev'
      else sets.private_items(
        constitution, _SPLIT.value, read_secret(pathlib.Path(_SECRET.value)), own
      )
    )
  except (LoadError, ValueError) as error:
    raise EvaluateError(str(error)) from error
  model, served = read_model(weights, base), {}
  score = lambda sampler=None: scoring.Scorer(
    model.structure,
    model.tokenizer,
    items,
    max_new_tokens=constitution.objective.max_new_tokens,
    chat=model.chat,
    verifier=verifier,
    sampler=sampler,
  )(model.params)
  if constitution.evaluation.engine == 'jax':
    results = score()
  else:
    with server_log(UnavailableError, InferenceError) as log:
      from aevo_jax.evaluation.served import ServedSampler

      with contextlib.closing(
        ServedSampler(
          engine(settings, base, model, log), max_new_tokens=constitution.objective.max_new_tokens
        )
      ) as sampler:
        give(sampler, settings, weights, model)
        results, served = score(sampler), {'engine': 'vllm', 'served_digest': sampler.digest}
  return (
    {'weights': str(weights)}
    | model.digest
    | served
    | {'split': _SPLIT.value, 'items_digest': sets.items_digest(items)}
    | scoring.summary(results, verifier)
  )


@dataclasses.dataclass(frozen=True)
class Model:
  """A model read from disk, an adapter merged. digest: {'file_digest' or 'logical_digest':
  SHA-256}, of an adapter its file's and its base's.
  """

  config: Any
  structure: Any
  params: dict
  tokenizer: Any
  chat: Any
  digest: dict[str, str]


def read_model(weights: pathlib.Path, base: pathlib.Path) -> Model:
  """Weights, and what stands beside them in `base`.

  Raises:
    EvaluateError: they do not fit each other, or cannot be read.
  """
  from safetensors import SafetensorError

  from aevo_jax.checkpoint.digest import file_digest, logical_digest
  from aevo_jax.data import chat_template
  from aevo_jax.data import tokenizer as tokenizers
  from aevo_jax.models import lora
  from aevo_jax.models import weights as weights_lib
  from aevo_jax.models.hf import checkpoint, peft_adapter
  from aevo_jax.models.params import outline

  merged = weights.name == ADAPTER
  read = base if merged else weights
  if merged:
    refuse_other_base(weights.parent, base)
  try:
    config = checkpoint.read_config(base)
    params = weights_lib.load(read, config)
    if merged:
      adapter, under = peft_adapter.load(weights.parent, config), logical_digest(params)
      params = lora.merge({**params, **adapter.params}, adapter.alpha / adapter.rank)
    chat = chat_template.read(str(base))
  except ValueError as error:
    raise EvaluateError(str(error)) from error
  except SafetensorError as error:
    raise EvaluateError(f'{weights} is no safetensors file: {error}') from error
  digest = (
    {'logical_digest': logical_digest(params)}
    if weights.is_dir()
    else {'file_digest': file_digest(weights)} | ({'base_digest': under} if merged else {})
  )
  return Model(config, outline(config)[0], params, tokenizers.load(str(base)), chat, digest)


def engine(settings: Any, base: pathlib.Path, model: Model, log: pathlib.Path) -> Any:
  """A `VllmEngine` of the model, without weights."""
  from aevo_jax.generation.vllm.engine import VllmEngine  # here, since httpx2 is an extra

  ends = [model.tokenizer.token_to_id(model.chat.eos), *model.chat.stops]
  return VllmEngine(
    settings, model=base, structure=model.structure, config=model.config, eos_ids=ends, log=log
  )


def refuse_arbiter(fields: tuple[str, ...]) -> None:
  """Raises EvaluateError if one of these bindings of `evaluation` is for campaigns alone."""
  for field in fields:
    if field != 'engine':
      raise EvaluateError(f'evaluation.{field} is bound, and read by campaigns alone; leave it out')


def refuse_carrier(settings: Any, weights: pathlib.Path) -> None:
  """Raises EvaluateError if vllm.carrier cannot bring these weights to a server."""
  from aevo_jax.config.inference import WHOLE_CARRIERS

  if settings.carrier == 'lora' and weights.name != ADAPTER:
    raise EvaluateError(
      "vllm.carrier = 'lora' loads an adapter on the base that the server began with, "
      f"and {weights} is none; give the adapter's directory, or leave vllm.carrier out"
    )
  if settings.carrier not in (*WHOLE_CARRIERS, 'lora'):
    raise EvaluateError(
      f"vllm.carrier = {settings.carrier!r} does not carry a checkpoint's weights; bind "
      f"one of {', '.join(WHOLE_CARRIERS)}, or 'lora' for an adapter"
    )


def give(sampler: Any, settings: Any, weights: pathlib.Path, model: Model) -> None:
  """Has a `served.ServedSampler` or a `VllmEngine` load the file of the weights; of a directory,
  and of an adapter that is not hot-loaded, one that is written.
  """
  if weights.is_dir() or (weights.name == ADAPTER and settings.carrier != 'lora'):
    sampler.update(model.params, 0)
  else:
    sampler.load(weights, model.digest['file_digest'], model.params)


@contextlib.contextmanager
def server_log(*failures: type[Exception]) -> Iterator[pathlib.Path]:
  """Where a server's output goes: a file that is kept if the server failed, and named then with its
  end.

  Raises:
    EvaluateError: in the place of `failures`, and of ValueError.
  """
  directory = pathlib.Path(tempfile.mkdtemp(prefix='aevo_evaluate_'))
  log, kept = directory / 'vllm.log', False
  try:
    yield log
  except failures as error:
    kept = log.exists()
    end = ' | '.join(log.read_text(errors='replace').splitlines()[-3:]) if kept else ''
    raise EvaluateError(
      f'{error}'
      + (
        f"; the server's log is kept at {log}"
        + ('' if str(log) in str(error) else f', which ends: {end}')
        if kept
        else ''
      )
    ) from error
  except ModuleNotFoundError as error:
    if error.name != 'httpx2':
      raise
    raise EvaluateError(
      'a vLLM server is asked with httpx2, which is not installed; install the extra '
      "'vllm' of aevo-jax"
    ) from error
  except ValueError as error:
    raise EvaluateError(str(error)) from error
  finally:
    if not kept:
      shutil.rmtree(directory, ignore_errors=True)


def harness(weights: pathlib.Path, base: pathlib.Path) -> dict:
  """Runs the tasks that the flags name."""
  # Registers what a campaign's gin may bind, so that it is known by name.
  from aevo_jax.campaign import setup as _setup  # noqa: F401
  from aevo_jax.config.configurables import bound, parameters, resolve
  from aevo_jax.config.loading import LoadError
  from aevo_jax.evaluation import harness as harness_lib
  from aevo_jax.generation.protocol import InferenceError

  COMMAND.load_gin()
  logging.set_verbosity(logging.WARNING)
  try:
    for name in parameters():
      if name not in ('vllm', 'evaluation') and (fields := bound(name)):
        raise EvaluateError(
          f'{name}.{fields[0]} is bound, and nothing reads {name} with --harness; leave it out'
        )
    refuse_arbiter(bound('evaluation'))
    if bound('evaluation') and resolve('evaluation').engine != 'vllm':
      raise EvaluateError('the harness asks a vLLM server; leave evaluation.engine out')
    settings = resolve('vllm')
    refuse_carrier(settings, weights)
    harness_lib.check_installed()
  except (LoadError, harness_lib.HarnessError) as error:
    raise EvaluateError(str(error)) from error
  if _SAMPLES.value:
    pathlib.Path(_SAMPLES.value).touch()  # what cannot be written is told before hours are spent
  model = read_model(weights, base)
  with server_log(InferenceError) as log:
    with engine(settings, base, model, log) as server:
      answers = harness_lib.Answers(
        server,
        model.tokenizer,
        model.chat,
        max_model_len=settings.max_model_len,
        start=lambda: give(server, settings, weights, model),
      )
      found = harness_lib.run(
        answers,
        _TASKS.value,
        include_path=_INCLUDE.value,
        limit=_LIMIT.value,
        num_fewshot=_FEWSHOT.value,
        chat=_CHAT.value,
      )
      served = {'served_digest': server.digest, 'vllm_version': server.vllm_version()}
  if _SAMPLES.value:
    harness_lib.write_samples(pathlib.Path(_SAMPLES.value), found)
  return {'weights': str(weights)} | model.digest | served | harness_lib.report(found)


def harness_table(result: dict) -> str:
  """Plain text."""
  from aevo_jax.evaluation import harness as harness_lib

  lines = [('task', 'metric', 'value', 'stderr', 'n')]
  lines += [
    (task, metric, f'{value:.4f}', '' if error is None else f'{error:.4f}', str(n))
    for task, metric, value, error, n in harness_lib.rows(result)
  ]
  widths = [max(len(line[k]) for line in lines) for k in range(5)]
  said = (
    f'{result["weights"]} with SHA-256 {result["served_digest"]}, lm_eval '
    f'{result["lm_eval_version"]}, vLLM {result["vllm_version"]}'
  )
  return '\n'.join(
    [
      said,
      *(
        '  '.join(
          cell.ljust(width) if k < 2 else cell.rjust(width)
          for k, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
      ),
    ]
  )


def table(result: dict) -> str:
  """Plain text."""
  lines = [
    (
      f'{result["weights"]} on {result["overall"]["total"]} {result["split"]} items, '
      f'{result["verifier"]} verifier'
    )
  ]
  rows = result['by_family'] | {
    'overall': result['overall'],
    f'overall, {result["other_verifier"]["verifier"]} verifier': result['other_verifier'],
  }
  width = max(map(len, rows))
  lines += [
    (
      f'{name:<{width}}  {p["accuracy"]:.3f} [{p["low"]:.3f}, {p["high"]:.3f}]  '
      f'{p["correct"]}/{p["total"]}'
    )
    for name, p in rows.items()
  ]
  return '\n'.join(lines)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
