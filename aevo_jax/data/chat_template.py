"""The base's own chat format: its jinja template, and the tokens that end a turn and fill a row.

It is read from the files that travel with a Hugging Face checkpoint (tokenizer_config.json,
chat_template.jinja, generation_config.json) and rendered as transformers renders it, in jinja's
immutable sandbox: a template is somebody's text, and may neither reach an attribute it was not
given nor change one.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
import tokenizers

from aevo_jax import faults
from aevo_jax.data import tokenizer as tokenizer_lib
from aevo_jax.data.tokenizer import BOS, CHAT_TEMPLATE, EOS, PAD

TOKENIZER_CONFIG = 'tokenizer_config.json'
GENERATION_CONFIG = 'generation_config.json'
TEMPLATE = 'chat_template.jinja'
MODEL_CONFIG = 'config.json'
_IDS = ('bos_token_id', 'eos_token_id', 'pad_token_id')  # of generation_config.json
# By any of which a directory shows that it is meant to have a tokenizer.
_OF_TOKENIZER = (
  tokenizer_lib.FILE,
  TOKENIZER_CONFIG,
  TEMPLATE,
  'tokenizer.model',
  'vocab.json',
  'merges.txt',
)

Message = dict[str, str]


class ChatTemplateError(ValueError):
  """The base's chat format cannot be used; the message names the file and the fix."""


@dataclasses.dataclass(frozen=True)
class ChatFormat:
  """A template with its tokens.

  Attributes:
    template: jinja.
    bos: begin token, '' for none.
    eos: ends a turn of the model.
    pad: fills a row.
    stops: ids that end a completion besides eos, which a base may write before it is trained on
      eos.
  """

  template: str
  bos: str
  eos: str
  pad: str
  stops: tuple[int, ...] = ()

  def prompt(self, question: str) -> str:
    """Renders the user's turn and the opening of the model's.

    Args:
      question: the user's text.

    Returns:
      The text that the model continues.

    Raises:
      ChatTemplateError: the template refuses a conversation of one user turn.
    """
    return self._render([{'role': 'user', 'content': question}], 'a conversation of one user turn')

  def conversation(self, messages: Sequence[Message], *, opened: bool = True) -> str:
    """Renders a conversation of any turns.

    Args:
      messages: {'role', 'content'} each.
      opened: the model's turn begins after them; if not, it is the last message, which goes on
        where its text ends.

    Returns:
      The text that the model continues.

    Raises:
      ChatTemplateError: the template refuses it, or leaves the last message out.
    """
    if opened:
      return self._render(messages, 'such a conversation')
    mark = '<here it goes on> '
    last = messages[-1]
    marked = [*messages[:-1], last | {'content': last['content'] + mark}]
    rendered = self._render(marked, 'such a conversation', opened=False)
    text, separator, rest = rendered.rpartition(mark.strip())
    if not separator:
      raise ChatTemplateError(
        'the chat template leaves out what the model was to go on with, '
        f'{last["content"]!r}; it gave {rest!r}'
      )
    # As transformers: a template that strips its messages strips this one.
    return text if rest.startswith(' ') else text.rstrip()

  def following(self, question: str) -> str:
    """Renders a further turn of the user, in the middle of a conversation.

    Args:
      question: the user's text.

    Returns:
      The text between the model's last answer, with its end token, and its next one.

    Raises:
      ChatTemplateError: the template refuses such a conversation, or does not end an answer with
        `eos`.
    """
    answer = 'the answer'
    messages = [
      {'role': 'user', 'content': 'the question'},
      {'role': 'assistant', 'content': answer},
      {'role': 'user', 'content': question},
    ]
    text = self._render(messages, 'a conversation of several turns')
    _, separator, rest = text.partition(answer + self.eos)
    if not separator:
      raise ChatTemplateError(
        f"the chat template does not end the model's turn with {self.eos!r}, so a "
        f'conversation cannot go on after it; it gave {text!r}'
      )
    return rest

  def other_end(self) -> str:
    """Compares how the template ends the model's turn with how training will.

    Returns:
      What the template writes there instead of `eos`; empty where it is `eos` or nothing, or where
      the template does not render a turn of the model.
    """
    answer = 'the answer'
    messages = [
      {'role': 'user', 'content': 'the question'},
      {'role': 'assistant', 'content': answer},
    ]
    try:
      text = self._render(messages, 'a turn of the model', opened=False)
    except ChatTemplateError:
      return ''
    _, shown, end = text.rpartition(answer)
    if not shown or end.strip().startswith(self.eos):
      return ''
    return end.strip()

  def _render(self, messages: Sequence[Message], described: str, opened: bool = True) -> str:
    try:
      return _compiled(self.template).render(
        messages=messages,
        add_generation_prompt=opened,
        bos_token=self.bos,
        eos_token=self.eos,
        pad_token=self.pad,
        tools=None,
        documents=None,
      )
    except (jinja2.TemplateError, TypeError, ValueError, AttributeError) as error:
      raise ChatTemplateError(f'the chat template does not render {described}: {error}') from error


MICRO = ChatFormat(CHAT_TEMPLATE, BOS, EOS, PAD)


class _GenerationTag(jinja2.ext.Extension):
  """`{% generation %} ... {% endgeneration %}`, by which transformers finds the model's tokens.

  It marks them and changes no text. What a template sets inside is not seen outside, as there.
  """

  tags = frozenset({'generation'})

  def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    return jinja2.nodes.CallBlock(self.call_method('_text'), [], [], body).set_lineno(line)

  def _text(self, caller: jinja2.runtime.Macro) -> str:
    return caller()


@functools.cache
def _compiled(template: str) -> jinja2.Template:
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=['jinja2.ext.loopcontrols', _GenerationTag],
  )
  environment.filters['tojson'] = _to_json
  environment.globals |= {'raise_exception': _refuse, 'strftime_now': _no_clock}
  return environment.from_string(template)


def _to_json(value: Any, **options: Any) -> str:
  """Writes JSON as transformers does; jinja's own filter escapes HTML."""
  return json.dumps(value, ensure_ascii=False, **options)


def _refuse(message: str) -> NoReturn:
  raise jinja2.TemplateError(message)


def _no_clock(form: str) -> NoReturn:
  raise jinja2.TemplateError(
    f"it writes today's date ({form}), and a score must not depend on the day: write a "
    'fixed one into the template'
  )


@functools.cache
def read(directory: str) -> ChatFormat:
  """Reads the chat format of a base.

  Args:
    directory: holds tokenizer.json beside the files named above.

  Returns:
    The format, with which a question was rendered once.

  Raises:
    ChatTemplateError: no tokenizer.json, template, end or pad token, one that the tokenizer does
      not have, a template that does not render, or ids that the model of config.json has no
      embedding for.
    ValueError: see `tokenizer.load`.
  """
  folder = pathlib.Path(directory)
  path = folder / TOKENIZER_CONFIG
  config = _json(path)
  if not (folder / tokenizer_lib.FILE).is_file():
    raise ChatTemplateError(
      f'{folder} has no {tokenizer_lib.FILE}; save the tokenizer as a fast one (transformers: '
      'AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...))'
    )
  tokenizer = tokenizer_lib.load(directory)
  tokens = {role: _token(path, role, config) for role in ('bos', 'eos', 'pad')}
  written, template = _template(folder, config)
  _check_tokens(path, tokens, tokenizer)
  eos = tokens['eos'] or ''
  ids = _generation_ids(folder)
  _check_ids(folder, ids)
  stops = set(ids.get('eos_token_id', ())) - {tokenizer.token_to_id(eos)}
  chat = ChatFormat(
    template=template,
    bos=tokens['bos'] or '',
    eos=eos,
    pad=tokens['pad'] or '',
    stops=tuple(sorted(stops)),
  )
  _check_renders(written, chat)
  return chat


def _template(folder: pathlib.Path, config: dict[str, Any]) -> tuple[pathlib.Path, str]:
  """Finds the template: the file that holds it, and its text."""
  path = folder / TEMPLATE
  if path.exists():
    template = path.read_text()
  else:
    path = folder / TOKENIZER_CONFIG
    template = _default(path, config.get('chat_template'))
  if not template:
    raise ChatTemplateError(
      f'{folder / TOKENIZER_CONFIG} has no chat_template, and there is no {TEMPLATE} beside it; '
      'take an instruction-tuned checkpoint, or write the template there'
    )
  return path, template


def _check_tokens(
  path: pathlib.Path, tokens: dict[str, str | None], tokenizer: tokenizers.Tokenizer
) -> None:
  for role in ('eos', 'pad'):
    if tokens[role] is None:
      raise ChatTemplateError(
        f"{path} has no {role}_token; write one of the tokenizer's special tokens there"
      )
  for role, token in tokens.items():
    if token is not None and tokenizer.token_to_id(token) is None:
      raise ChatTemplateError(
        f'{path}: the {role}_token {token!r} is not in tokenizer.json; write one that is'
      )


def _generation_ids(folder: pathlib.Path) -> dict[str, list[int]]:
  """Returns the ids of generation_config.json by their fields, none without that file."""
  path = folder / GENERATION_CONFIG
  if not path.exists():
    return {}
  fields = _json(path)
  ids = {}
  for name in _IDS:
    value = fields.get(name)
    several = name == 'eos_token_id' and isinstance(value, list)
    listed = value if several else [value]
    if value is None:
      continue
    if not all(type(id_) is int for id_ in listed):
      or_list = ', a list of them' if name == 'eos_token_id' else ''
      raise ChatTemplateError(
        f'{path} has {name} = {value!r} (only a token id{or_list}, or null); correct it'
      )
    ids[name] = listed
  return ids


def _check_ids(folder: pathlib.Path, ids: dict[str, list[int]]) -> None:
  """Holds the ids of the tokenizer and of generation_config.json against the model's embedding."""
  path = folder / MODEL_CONFIG
  if not path.exists():
    return
  vocab_size = _json(path).get('vocab_size')
  if not isinstance(vocab_size, int):
    return
  try:
    tokenizer_lib.check_vocabulary(folder, vocab_size)
  except ValueError as error:
    raise ChatTemplateError(str(error)) from None
  for name, listed in ids.items():
    outside = sorted(id_ for id_ in listed if not 0 <= id_ < vocab_size)
    if outside:
      raise ChatTemplateError(
        f'{folder / GENERATION_CONFIG} has {outside[0]} as {name}, and the model of config.json '
        f'has a vocabulary of {vocab_size}; correct it'
      )


def _check_renders(path: pathlib.Path, chat: ChatFormat) -> None:
  question = 'What is 1 + 1?'
  try:
    rendered = chat.prompt(question)
  except ChatTemplateError as error:
    raise ChatTemplateError(f'{path}: {error}') from error
  if question not in rendered:
    raise ChatTemplateError(
      f"{path}: the chat template leaves the user's text out; it gave {rendered!r}"
    )


def _default(path: pathlib.Path, templates: Any) -> str | None:
  """Returns the template, or the one named 'default' where a checkpoint has several."""
  template = templates
  if isinstance(templates, list):
    template = None
    for entry in templates:
      if isinstance(entry, dict) and entry.get('name') == 'default':
        template = entry.get('template')
  if template is not None and not isinstance(template, str):
    raise ChatTemplateError(
      f'{path} has a chat_template that is no text but {template!r:.60}; copy it again'
    )
  return template


def _token(path: pathlib.Path, role: str, config: dict[str, Any]) -> str | None:
  """Reads a token of tokenizer_config.json: its text, an object that holds it, or null."""
  token = value = config.get(f'{role}_token')
  if isinstance(value, dict):
    token = value.get('content', value)
  if token is not None and not isinstance(token, str):
    raise ChatTemplateError(
      f'{path} has {role}_token = {value!r} (only a text, an object with a text as content, or '
      "null); write one of the tokenizer's special tokens"
    )
  return token


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    fields = json.loads(path.read_text())
  except FileNotFoundError:
    raise ChatTemplateError(f'there is no {path}; copy it from the checkpoint') from None
  except ValueError as error:
    raise ChatTemplateError(f'{path} is not JSON ({error}); {faults.again(path)}') from None
  if not isinstance(fields, dict):
    raise ChatTemplateError(f'{path} must hold a JSON object')
  return fields


def remarks(directory: str) -> list[str]:
  """Says what a person should know who trains on a base.

  Args:
    directory: of the base.

  Returns:
    A sentence, or none.

  Raises:
    ChatTemplateError, ValueError: see `read`.
  """
  chat = read(directory)
  end = chat.other_end()
  if not end:
    return []
  return [
    f"the chat template ends the model's turn with {end[:40]!r}, and training ends it with "
    f'eos_token, {chat.eos!r}; if it should end as in the template, write that token as eos_token '
    f'into {pathlib.Path(directory) / TOKENIZER_CONFIG}'
  ]


def check(directory: pathlib.Path) -> list[str]:
  """Checks the files beside a base's weights, where the base comes in and where it goes out.

  Args:
    directory: of the base.

  Returns:
    What a person should know of it, see `remarks`; or that there is no tokenizer at all.

  Raises:
    ChatTemplateError, ValueError: see `read`.
  """
  if any((directory / name).exists() for name in _OF_TOKENIZER):
    return remarks(str(directory))
  return [
    f'there is no tokenizer in {directory}: it can be imported and exported; to train or evaluate '
    f'it, put {tokenizer_lib.FILE} and {TOKENIZER_CONFIG} there first'
  ]
