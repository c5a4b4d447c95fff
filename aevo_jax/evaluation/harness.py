"""lm-evaluation-harness on weights that a vLLM server has; `harness_answers` has what it asks.

lm_eval itself is imported where it is needed: `make harness` installs it.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from aevo_jax.config.nearest import suggestion
from aevo_jax.evaluation.harness_answers import Answers, HarnessError
from aevo_jax.generation.protocol import Continuation, InferenceError

_OFFLINE = ('HF_HUB_OFFLINE', 'HF_DATASETS_OFFLINE')
# Parts of lm-eval's results that are of this machine, or nothing here.
_NOT_OF_THE_RESULT = (
  'samples',
  'pretty_env_info',
  'git_hash',
  'upper_git_hash',
  'transformers_version',
)
FindSpec = Callable[[str], Any]


def model(answers: Answers) -> Any:
  """Creates an lm_eval.api.model.LM.

  Args:
    answers: what it answers with.

  Returns:
    The model.
  """
  from lm_eval.api.model import LM  # noqa: PLC0415 - an extra
  from lm_eval.utils import (  # noqa: PLC0415 - an extra
    get_rolling_token_windows,
    make_disjoint_window,
  )

  class Served(LM):
    tokenizer_name = answers.tokenizer_name

    def loglikelihood(self, requests):
      return answers.score([answers.pair(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests):
      windows = []
      counts = []
      for request in requests:
        ids = answers.encode(*request.args)
        before = len(windows)
        for window in get_rolling_token_windows(ids, answers.prefix, answers.windows, 1):
          context, tokens = make_disjoint_window(window)
          windows.append(Continuation(tuple(context), tuple(tokens)))
        counts.append(len(windows) - before)
      scores = iter(answers.score(windows))
      return [sum(next(scores)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests):
      return answers.complete([request.args for request in requests])

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
      return answers.chat.conversation(chat_history, opened=add_generation_prompt)

    def chat_template(self, chat_template=False):
      return answers.chat.template if chat_template else ''

  return Served()


def check_installed(find_spec: FindSpec = importlib.util.find_spec) -> None:
  """Checks that there is an lm_eval.

  Args:
    find_spec: finds a module, None where it is not installed.

  Raises:
    HarnessError: there is none.
  """
  if find_spec('lm_eval') is None:
    raise HarnessError(
      'lm-evaluation-harness is not installed: run `make harness` in a checkout, or '
      "install the extra 'harness' of aevo-jax"
    )


def run(
  answers: Answers,
  tasks: Sequence[str],
  *,
  include_path: str | None = None,
  limit: int | None = None,
  num_fewshot: int | None = None,
  chat: bool = False,
  find_spec: FindSpec = importlib.util.find_spec,
) -> dict[str, Any]:
  """Runs tasks of lm-eval, without a network unless HF_HUB_OFFLINE and HF_DATASETS_OFFLINE say 0.

  Args:
    answers: what answers.
    tasks: names, or paths of YAML files.
    include_path: a folder with YAML files of further tasks.
    limit: items of a task, None for all.
    num_fewshot: examples in a prompt, None for the task's.
    chat: whether prompts are put into the chat format.
    find_spec: see `check_installed`.

  Returns:
    lm-eval's results, its samples among them, with `task_hashes`.

  Raises:
    HarnessError: no lm_eval, no such task, or one with data that are not here.
    InferenceError: the server failed, again and again.
  """
  check_installed(find_spec)
  # Read when `datasets` is imported.
  for name in _OFFLINE:
    os.environ.setdefault(name, '1')
  if include_path is not None and not pathlib.Path(include_path).is_dir():
    raise HarnessError(
      f'--include_path={include_path} is no directory; it holds the YAML files of tasks'
    )
  from lm_eval import simple_evaluate  # noqa: PLC0415 - an extra

  logging.getLogger('lm_eval').setLevel(logging.ERROR)
  try:
    results = simple_evaluate(
      model(answers),
      tasks=list(tasks),
      task_manager=_task_manager(tasks, include_path),
      limit=limit,
      num_fewshot=num_fewshot,
      apply_chat_template=chat,
      log_samples=True,
    )
  except (HarnessError, InferenceError):
    raise
  # lm_eval raises these at tasks that it cannot run.
  except (ValueError, KeyError, TypeError, AssertionError) as error:
    raise HarnessError(
      f'lm_eval cannot run {", ".join(tasks)}: {type(error).__name__}: {error}'
    ) from error
  results['task_hashes'] = {name: _hash(samples) for name, samples in results['samples'].items()}
  return results


def _task_manager(tasks: Sequence[str], include_path: str | None) -> Any:
  from lm_eval.tasks import TaskManager  # noqa: PLC0415 - an extra

  class Tasks(TaskManager):
    def load(self, task_list):
      with _explained(task_list, self.all_tasks):
        return super().load(task_list)

  # Reading the names of all that lm_eval has takes seconds, and these come before them.
  included = Tasks(include_path=include_path, include_defaults=False)
  if set(tasks) <= set(included.all_subtasks):
    return included
  return Tasks(include_path=include_path)


def _hash(samples: Sequence[dict[str, Any]]) -> str:
  digest = hashlib.sha256()
  for sample in samples:
    for field in ('doc_hash', 'prompt_hash', 'target_hash'):
      digest.update(sample[field].encode())
  return digest.hexdigest()


@contextlib.contextmanager
def _explained(tasks: Sequence[str], known: Sequence[str]) -> Iterator[None]:
  """Turns what loading tasks raises into words. It raises whatever `datasets` does."""
  missing = [name for name in tasks if name not in known and not pathlib.Path(name).is_file()]
  if missing:
    raise HarnessError(
      f'lm_eval has no task {missing[0]!r}{suggestion(missing[0], known)}; '
      '--include_path=DIRECTORY names tasks of your own'
    )
  try:
    yield
  except Exception as error:
    raise HarnessError(
      f'the tasks {", ".join(tasks)} cannot be loaded: {type(error).__name__}: {error}; '
      'data files of your own are named by their paths in the YAML (dataset_path: json, '
      f'dataset_kwargs: data_files){_how_to_fetch()}'
    ) from error


def _how_to_fetch() -> str:
  names = [name for name in _OFFLINE if os.environ.get(name, '1') not in ('0', '')]
  if not names:
    return ''
  variables = ' and '.join(f'{name}=0' for name in names)
  return (
    f'; data on the hub are fetched once by the same command with {variables} in its '
    'environment, where there is a network'
  )


# -- results ---------------------------------------------------------------------------------------


def report(results: dict[str, Any]) -> dict[str, Any]:
  """Selects what is kept of lm-eval's results.

  Args:
    results: see `run`.

  Returns:
    All but samples and what describes this machine; as JSON would have it.
  """
  from lm_eval.utils import handle_non_serializable  # noqa: PLC0415 - an extra

  kept = {name: value for name, value in results.items() if name not in _NOT_OF_THE_RESULT}
  kept['lm_eval_version'] = importlib.metadata.version('lm_eval')
  return json.loads(json.dumps(kept, default=handle_non_serializable))


def write_samples(path: pathlib.Path, results: dict[str, Any]) -> None:
  """Writes every item with its requests and answers.

  Args:
    path: gets a JSON object a line, `task` among its fields.
    results: see `run`.
  """
  from lm_eval.utils import handle_non_serializable  # noqa: PLC0415 - an extra

  with path.open('w') as file:
    for name, samples in results['samples'].items():
      for sample in samples:
        line = json.dumps({'task': name} | sample, default=handle_non_serializable)
        file.write(f'{line}\n')


class Row(NamedTuple):
  """One number of the results.

  Attributes:
    task: a task or group.
    metric: with its filter, unless that is 'none'.
    value: the number.
    error: its standard error, None without one.
    items: how many items it is of.
  """

  task: str
  metric: str
  value: float
  error: float | None
  items: int


def rows(results: dict[str, Any]) -> list[Row]:
  """Lists the numbers of the results.

  Args:
    results: see `run`, or `report`.

  Returns:
    One row a metric, of tasks and then of groups.
  """
  table = []
  for name, values in {**results['results'], **results.get('groups', {})}.items():
    items = results['n-samples'].get(name, {}).get('effective', values.get('sample_len', 0))
    for key, value in values.items():
      metric, comma, filter_ = key.partition(',')
      if not comma or metric.endswith('_stderr') or not isinstance(value, int | float):
        continue
      error = values.get(f'{metric}_stderr,{filter_}')
      if not isinstance(error, int | float):
        error = None
      if filter_ != 'none':
        metric = key
      table.append(Row(name, metric, value, error, items))
  return table
