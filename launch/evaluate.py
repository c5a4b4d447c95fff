"""Score weights on a set of puzzles: accuracy per family with 95% Wilson intervals.

  aevo evaluate substrate/base                                  a base (in shards or imported too), or the --out of `aevo train`
  aevo evaluate runs/demo/trials/r2w5/export/model.safetensors --items=300
  aevo evaluate my_run --verifier=challenge --json
  aevo evaluate my_run --split=external --secret_file=mine.json a private set of your own: {"secret": "64 hex digits"}

The sets are those of constitution.gin, which --gin_file and --gin_bindings override (dev_set.seed, external_set.rare_share, tasks.path, ...).
"""

import dataclasses
import json
import pathlib
import sys

from absl import app, flags, logging

from aevo_jax import faults, layout
from aevo_jax.config import flags as gin_flags
from aevo_jax.runtime import tune_for_cpu

_BASE = flags.DEFINE_string('base', None, "Directory with the weights' config.json and tokenizer.json; where the weights lie if they are there, else the substrate's base.")
_SPLIT = flags.DEFINE_enum('split', 'dev', ['dev', 'external', 'final'], 'Which set. External and final need --secret_file.')
_SECRET = flags.DEFINE_string('secret_file', None, 'JSON file {"secret": "hex digits"} that a private set is drawn with: your own, or one a campaign has revealed.')
_ITEMS = flags.DEFINE_integer('items', None, "Size of the set, if not the constitution's.", lower_bound=1)
_VERIFIER = flags.DEFINE_string('verifier', None, "How answers are compared, if not as the constitution says (objective.verifier).")
_JSON = flags.DEFINE_bool('json', False, 'Print JSON.')

WEIGHTS, CONFIG, INDEX = 'model.safetensors', 'config.json', 'model.safetensors.index.json'
MIN_SECRET_BYTES = 16


class EvaluateError(ValueError):
  """The request cannot be served; the message names the fix."""


def main(argv: list[str]) -> None:
  tune_for_cpu()  # as trials and the evaluator do
  if len(argv) != 2:
    raise app.UsageError('say which weights: aevo evaluate WEIGHTS_OR_DIRECTORY')
  if (_SPLIT.value == 'dev') != (_SECRET.value is None):
    raise app.UsageError(f'--split={_SPLIT.value} ' + ('is drawn with a public seed; leave out --secret_file' if _SPLIT.value == 'dev' else
                                                      'is drawn with a secret; give --secret_file=FILE with {"secret": "hex digits"}'))
  try:
    weights = find_weights(pathlib.Path(argv[1]))
    beside = weights if weights.is_dir() else weights.parent
    base = pathlib.Path(_BASE.value) if _BASE.value else beside if (beside / CONFIG).exists() else layout.root_file('substrate') / 'base'
    result = evaluate(weights, base)
  except EvaluateError as error:
    sys.exit(f'evaluate: {error}')
  except OSError as error:
    sys.exit(f'evaluate: {faults.explain(error)}')
  except KeyboardInterrupt:
    sys.exit('\nevaluate: interrupted')
  print(json.dumps(result, indent=2) if _JSON.value else table(result))


def find_weights(path: pathlib.Path) -> pathlib.Path:
  """The safetensors file that is meant by a file, a base or export directory, a trial or a run of `aevo train`; a directory itself where it holds shards or an import.

  Raises:
    EvaluateError: there is none.
  """
  for directory in (path, path / 'export'):
    if (directory / INDEX).is_file() or (directory / 'checkpoint').is_dir() and (directory / CONFIG).is_file():
      return directory
  candidates = [path] if path.is_file() else [path / WEIGHTS, path / 'export' / WEIGHTS]
  found = next((p for p in candidates if p.is_file()), None)
  if found is None:
    raise EvaluateError(f'{path} holds no {WEIGHTS}, nor export/{WEIGHTS}; give a safetensors file or a directory with one' if path.is_dir() else f'there is no {path}')
  return found


def read_secret(path: pathlib.Path) -> bytes:
  """The secret of a private set.

  Raises:
    EvaluateError: not {"secret": hex digits of 16 bytes or more}.
  """
  try:
    secret = bytes.fromhex(json.loads(path.read_text())['secret'])
  except (ValueError, KeyError, TypeError) as error:
    raise EvaluateError(f'{path} is not {{"secret": "hex digits"}} ({type(error).__name__}: {error})') from None
  if len(secret) < MIN_SECRET_BYTES:
    raise EvaluateError(f'the secret in {path} has {len(secret)} bytes; {MIN_SECRET_BYTES} are the least that nobody guesses (python -c "import secrets; print(secrets.token_hex())")')
  return secret


def evaluate(weights: pathlib.Path, base: pathlib.Path) -> dict:
  """Scores weights on the set that the flags name."""
  from aevo_jax.campaign import setup  # registers what a campaign's gin may bind
  from aevo_jax.config import constitution as constitution_lib
  gin_flags.load_from_flags(layout.search_paths(), first=[str(layout.root_file('constitution.gin'))])
  # Imported here, so that a wrong flag is answered before JAX starts.
  from safetensors import SafetensorError

  from aevo_jax.checkpoint.digest import file_digest, logical_digest
  from aevo_jax.config.loading import LoadError
  from aevo_jax.data import chat_template
  from aevo_jax.data import tokenizer as tokenizers
  from aevo_jax.evaluation import scoring, sets
  from aevo_jax.models import hf_checkpoint
  from aevo_jax.models.params import outline
  from aevo_jax.substrate import weights as weights_lib

  logging.set_verbosity(logging.WARNING)
  section = f'{_SPLIT.value}_set'
  try:
    constitution = constitution_lib.from_gin()
    if constitution.evaluation.engine != 'jax':
      raise EvaluateError(f'evaluation.engine = {constitution.evaluation.engine!r} is read by campaigns alone; aevo evaluate scores in its own process, so leave it and vllm.* out')
    definition = getattr(constitution, section)
    if _ITEMS.value is not None:
      constitution = dataclasses.replace(constitution, **{section: dataclasses.replace(definition, items=_ITEMS.value)})
    if _VERIFIER.value is not None:
      constitution = dataclasses.replace(constitution, objective=dataclasses.replace(constitution.objective, verifier=_VERIFIER.value))
    verifier, own = constitution.objective.verifier, sets.own_tasks(constitution, setup.tasks_path(constitution.tasks.path))
    items = (sets.dev_items(constitution, own) if _SPLIT.value == 'dev' else
             sets.private_items(constitution, _SPLIT.value, read_secret(pathlib.Path(_SECRET.value)), own))
    config = hf_checkpoint.read_config(base)
    params = weights_lib.load(weights, config) if weights.is_dir() else hf_checkpoint.load_weights(weights, config)
    chat = chat_template.read(str(base))
  except (LoadError, ValueError) as error:
    raise EvaluateError(str(error)) from error
  except SafetensorError as error:
    raise EvaluateError(f'{weights} is no safetensors file: {error}') from error
  scorer = scoring.Scorer(outline(config)[0], tokenizers.load(str(base)), items, max_new_tokens=constitution.objective.max_new_tokens,
                          chat=chat, verifier=verifier)
  digest = {'logical_digest': logical_digest(params)} if weights.is_dir() else {'file_digest': file_digest(weights)}
  return {'weights': str(weights)} | digest | {'split': _SPLIT.value, 'items_digest': sets.items_digest(items)} | scoring.summary(scorer(params), verifier)


def table(result: dict) -> str:
  """Plain text."""
  lines = [f'{result["weights"]} on {result["overall"]["total"]} {result["split"]} items, {result["verifier"]} verifier']
  rows = result['by_family'] | {'overall': result['overall'], f'overall, {result["other_verifier"]["verifier"]} verifier': result['other_verifier']}
  width = max(map(len, rows))
  lines += [f'{name:<{width}}  {p["accuracy"]:.3f} [{p["low"]:.3f}, {p["high"]:.3f}]  {p["correct"]}/{p["total"]}' for name, p in rows.items()]
  return '\n'.join(lines)


if __name__ == '__main__':
  gin_flags.define()
  app.run(main, flags_parser=gin_flags.parse)
