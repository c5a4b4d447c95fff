"""lm-evaluation-harness on weights that a vLLM server was given: asked in our own tokens, split as
its HFLM splits them, and answered with a rollout's checks.

  log-likelihoods   of continuations, as its tasks of multiple choice ask for, and of whole texts,
  window by window completions       until a text, greedy or at a temperature; where they end is
  decided here, of tokens: the server may stop early at a text, and is not believed unless it is
  found here too

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
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import tokenizers

from aevo_jax.data.chat_template import ChatFormat
from aevo_jax.generation.protocol import (
  Completion,
  Continuation,
  InferenceError,
  Request,
  Sampling,
  Scored,
)

MAX_GEN_TOKS = 256  # of a task that says nothing: HFLM's
LENGTHS = (
  'max_gen_toks',
  'max_new_tokens',
  'max_tokens',
  'max_completion_tokens',
)  # lm-eval's names for one thing, the first that is given counts
NEUTRAL = {'top_p': (1,), 'top_k': (0, -1), 'min_p': (0,), 'num_beams': (1,)}
_OFFLINE = ('HF_HUB_OFFLINE', 'HF_DATASETS_OFFLINE')
_NOT_OF_THE_RESULT = (
  'samples',
  'pretty_env_info',
  'git_hash',
  'upper_git_hash',
  'transformers_version',
)  # of this machine, or nothing here


class HarnessError(ValueError):
  """What was asked cannot be done; the message names the fix."""


class Engine(Protocol):
  """What is asked: `generation.vllm.engine.VllmEngine`."""

  def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
    """A completion of each request, in their order."""

  def score(self, continuations: Sequence[Continuation]) -> list[Scored]:
    """Log-probabilities of each continuation's tokens, in their order."""


class Answers:
  """Texts in, texts and numbers out: the tokens between them.

  Args:
    max_model_len: the server's. One token of it is the one that a server must generate behind what
      it scores. start: gives the engine its weights, before the first question.
  """

  def __init__(
    self,
    engine: Engine,
    tokenizer: tokenizers.Tokenizer,
    chat: ChatFormat,
    *,
    max_model_len: int,
    start: Callable[[], None] = lambda: None,
  ):
    self._engine, self._tokenizer, self.chat, self._room, self._start = (
      engine,
      tokenizer,
      chat,
      max_model_len,
      start,
    )
    self.prefix = tokenizer.token_to_id(chat.bos or chat.eos)
    self._started = False
    self._specials = {
      token.content: id_
      for id_, token in tokenizer.get_added_tokens_decoder().items()
      if token.special
    }

  @property
  def windows(self) -> int:
    """Tokens of a window of `rolling` that follow its first."""
    return self._room - 2

  def encode(self, text: str) -> list[int]:
    """Token ids, with the special tokens that the tokenizer puts around a text that does not begin
    with one.
    """
    return self._tokenizer.encode(
      text, add_special_tokens=not text.startswith(self.chat.bos or self.chat.eos)
    ).ids

  def pair(self, context: str, continuation: str) -> Continuation:
    """Both in token ids, split where the context alone would end, its trailing spaces moved to the
    continuation; without context, after the first token of every text.

    Raises:
      HarnessError: the continuation adds no token to its context.
    """
    kept = context.rstrip()
    if not kept:
      ids = self._tokenizer.encode(context + continuation, add_special_tokens=False).ids
      before, ids = ((self.prefix,), ids) if ids[:1] != [self.prefix] else (tuple(ids[:1]), ids[1:])
    else:
      before = tuple(self.encode(kept))
      ids = self.encode(context + continuation)[len(before) :]
    if not ids:
      raise HarnessError(
        f'a task asks for the log-likelihood of {continuation!r} after '
        f'...{context[-40:]!r}, which adds no token; mend its doc_to_choice or '
        'target_delimiter'
      )
    return Continuation(before, tuple(ids))

  def cut(self, pair: Continuation) -> Continuation:
    """The same with as much of its context as the server takes, the end of it.

    Raises:
      HarnessError: not one token of the context fits.
    """
    left = self._room - 1 - len(pair.tokens)
    if left < 1:
      raise HarnessError(
        f'a continuation of {len(pair.tokens)} tokens leaves no room for its context; '
        f'bind vllm.max_model_len to {len(pair.tokens) + 2} or more, now {self._room}'
      )
    return Continuation(pair.context[-left:], pair.tokens)

  def score(self, pairs: Sequence[Continuation]) -> list[tuple[float, bool]]:
    """The log-likelihood of each, in nats, and whether it is the greedy one."""
    cut = [self.cut(pair) for pair in pairs]
    self._ready()
    return [(sum(found.logprobs), all(found.greedy)) for found in self._engine.score(cut)]

  def complete(self, asked: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """A completion of each (context, generation_kwargs), without the text that ended it.

    Raises:
      HarnessError: see `generation`, or the server stopped at a text that is not in its tokens.
    """
    together: dict[tuple[tuple[str, ...], Sampling], list[int]] = defaultdict(list)
    for i, (_, kwargs) in enumerate(asked):
      together[generation(kwargs, self._room)].append(i)
    self._ready()
    texts = [''] * len(asked)
    for (until, sampling), indices in together.items():
      room = self._room - sampling.max_new_tokens
      prompts = [tuple(self.encode(asked[i][0]) or [self.prefix])[-room:] for i in indices]
      found = self._engine.generate(
        [Request(prompt, i) for prompt, i in zip(prompts, indices)], sampling
      )
      for i, completion in zip(indices, found):
        texts[i], ended = self._text(completion, until)
        if completion.finish == 'stop' and not ended:
          raise HarnessError(
            f'the server ended a completion at one of {list(until)}, and its tokens read '
            f'{texts[i]!r} here: it has another tokenizer; start it from the directory of '
            'these weights'
          )
    return texts

  def _text(self, completion: Completion, until: tuple[str, ...]) -> tuple[str, bool]:
    """What it says before the first of the texts that end it, and whether there is one. Special
    tokens end it too, and are not said.
    """
    ids = list(completion.tokens[:-1] if completion.finish == 'end' else completion.tokens)
    ends = {self._specials[text] for text in until if text in self._specials}
    kept = ids[: next((k for k, id_ in enumerate(ids) if id_ in ends), len(ids))]
    said = self._tokenizer.decode(kept, skip_special_tokens=True)
    text = said
    for end in until:
      text = text.split(end)[0]
    return text, text != said or len(kept) < len(ids)

  def _ready(self) -> None:
    if not self._started:
      self._start()
      self._started = True


def generation(kwargs: dict[str, Any], max_model_len: int) -> tuple[tuple[str, ...], Sampling]:
  """A task's generation_kwargs: the texts that end a completion, and how its tokens are chosen.

  Raises:
    HarnessError: something that is not done here, or no room for a prompt.
  """
  rest = dict(kwargs)
  until = rest.pop('until', None) or []
  until = tuple(
    dict.fromkeys(text for text in ([until] if isinstance(until, str) else until) if text)
  )
  lengths = [rest.pop(name) for name in LENGTHS if name in rest]
  length = next((int(n) for n in lengths if n is not None), MAX_GEN_TOKS)
  if not 1 <= length < max_model_len:
    raise HarnessError(
      f'a task generates up to {length} tokens (max_gen_toks), and vllm.max_model_len = '
      f'{max_model_len} leaves no room for its prompt; bind it to more'
    )
  sample, temperature = rest.pop('do_sample', None), float(rest.pop('temperature', None) or 0)
  if sample and not temperature:
    raise HarnessError(
      'a task says do_sample: true without a temperature; write one into its '
      'generation_kwargs, or do_sample: false'
    )
  temperature = 0.0 if sample is False else temperature
  for name, neutral in NEUTRAL.items():
    if name in rest and (
      rest[name] is None or rest[name] in neutral or (name != 'num_beams' and not temperature)
    ):  # filters change nothing about the most probable token
      del rest[name]
  if rest:
    raise HarnessError(
      f'generation_kwargs {", ".join(sorted(rest))}: only until, {LENGTHS[0]}, do_sample '
      'and temperature are done here; leave the others out of a copy of the task '
      '(--include_path)'
    )
  return until, Sampling(temperature=temperature, max_new_tokens=length, stop=until)


def model(answers: Answers) -> Any:
  """An lm_eval.api.model.LM of them."""
  from lm_eval.api.model import LM
  from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

  class Served(LM):
    tokenizer_name = f'aevo_{hashlib.sha256(answers._tokenizer.to_str().encode()).hexdigest()[:16]}'

    def loglikelihood(self, requests):
      return answers.score([answers.pair(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests):
      windows = [
        [
          make_disjoint_window(w)
          for w in get_rolling_token_windows(
            answers.encode(*request.args), answers.prefix, answers.windows, 1
          )
        ]
        for request in requests
      ]
      found = iter(
        answers.score(
          [
            Continuation(tuple(context), tuple(tokens))
            for own in windows
            for context, tokens in own
          ]
        )
      )
      return [sum(next(found)[0] for _ in own) for own in windows]

    def generate_until(self, requests):
      return answers.complete([request.args for request in requests])

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
      return answers.chat.conversation(chat_history, opened=add_generation_prompt)

    def chat_template(self, chat_template=False):
      return answers.chat.template if chat_template else ''

  return Served()


def check_installed() -> None:
  """Raises HarnessError unless there is an lm_eval."""
  if importlib.util.find_spec('lm_eval') is None:
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
) -> dict[str, Any]:
  """lm-eval's results of these tasks, its samples among them, with `task_hashes`. Without a
  network, unless HF_HUB_OFFLINE and HF_DATASETS_OFFLINE say 0.

  Raises:
    HarnessError: no lm_eval, no such task, or one whose data are not here. InferenceError: the
      server failed, again and again.
  """
  check_installed()
  for name in _OFFLINE:
    os.environ.setdefault(name, '1')  # read when `datasets` is imported
  if include_path is not None and not pathlib.Path(include_path).is_dir():
    raise HarnessError(
      f'--include_path={include_path} is no directory; it holds the YAML files of tasks'
    )
  from lm_eval import simple_evaluate
  from lm_eval.tasks import TaskManager

  class Tasks(TaskManager):
    def load(self, task_list):
      with _told(task_list, self.all_tasks):
        return super().load(task_list)

  logging.getLogger('lm_eval').setLevel(logging.ERROR)
  own = Tasks(
    include_path=include_path, include_defaults=False
  )  # reading the names of all that lm_eval has takes seconds, and these come before them
  manager = own if set(tasks) <= set(own.all_subtasks) else Tasks(include_path=include_path)
  try:
    found = simple_evaluate(
      model(answers),
      tasks=list(tasks),
      task_manager=manager,
      limit=limit,
      num_fewshot=num_fewshot,
      apply_chat_template=chat,
      log_samples=True,
    )
  except (HarnessError, InferenceError):
    raise
  except (
    ValueError,
    KeyError,
    TypeError,
    AssertionError,
  ) as error:  # what lm_eval raises at tasks that it cannot run
    raise HarnessError(
      f'lm_eval cannot run {", ".join(tasks)}: {type(error).__name__}: {error}'
    ) from error
  found['task_hashes'] = {
    name: hashlib.sha256(
      ''.join(s['doc_hash'] + s['prompt_hash'] + s['target_hash'] for s in own).encode()
    ).hexdigest()
    for name, own in found['samples'].items()
  }
  return found


@contextlib.contextmanager
def _told(asked: Sequence[str], known: Sequence[str]) -> Iterator[None]:
  """What loading tasks raises, in words. It raises whatever `datasets` does."""
  from aevo_jax.config.nearest import suggestion

  missing = [name for name in asked if name not in known and not pathlib.Path(name).is_file()]
  if missing:
    raise HarnessError(
      f'lm_eval has no task {missing[0]!r}{suggestion(missing[0], known)}; '
      '--include_path=DIRECTORY names tasks of your own'
    )
  try:
    yield
  except Exception as error:
    offline = ' and '.join(
      f'{name}=0' for name in _OFFLINE if os.environ.get(name, '1') not in ('0', '')
    )
    fetch = (
      (
        f'; data on the hub are fetched once by the same command with {offline} in its '
        'environment, where there is a network'
      )
      if offline
      else ''
    )
    raise HarnessError(
      f'the tasks {", ".join(asked)} cannot be loaded: {type(error).__name__}: {error}; '
      'data files of your own are named by their paths in the YAML (dataset_path: json, '
      f'dataset_kwargs: data_files){fetch}'
    ) from error


def report(found: dict[str, Any]) -> dict[str, Any]:
  """What is kept of lm-eval's results: all but samples and what describes this machine; as JSON
  would have it.
  """
  from lm_eval.utils import handle_non_serializable

  kept = {name: value for name, value in found.items() if name not in _NOT_OF_THE_RESULT}
  return json.loads(
    json.dumps(
      kept | {'lm_eval_version': importlib.metadata.version('lm_eval')},
      default=handle_non_serializable,
    )
  )


def write_samples(path: pathlib.Path, found: dict[str, Any]) -> None:
  """Every item with its requests and answers, a JSON object a line, `task` among them."""
  from lm_eval.utils import handle_non_serializable

  with path.open('w') as file:
    for name, samples in found['samples'].items():
      file.writelines(
        json.dumps({'task': name} | sample, default=handle_non_serializable) + '\n'
        for sample in samples
      )


def rows(found: dict[str, Any]) -> list[tuple[str, str, float, float | None, int]]:
  """Task or group, metric (with its filter, unless it is 'none'), value, standard error and items."""
  out = []
  for name, values in {**found['results'], **found.get('groups', {})}.items():
    for key, value in values.items():
      metric, comma, filter_ = key.partition(',')
      if comma and not metric.endswith('_stderr') and isinstance(value, (int, float)):
        error = values.get(f'{metric}_stderr,{filter_}')
        out.append(
          (
            name,
            metric if filter_ == 'none' else key,
            value,
            error if isinstance(error, (int, float)) else None,
            found['n-samples'].get(name, {}).get('effective', values.get('sample_len', 0)),
          )
        )
  return out
