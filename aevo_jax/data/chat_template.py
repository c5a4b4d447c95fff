"""The base's own chat format: its jinja template, and the tokens that end a turn and fill a row.

Read from the files that travel with a Hugging Face checkpoint (tokenizer_config.json,
chat_template.jinja, generation_config.json) and rendered as transformers renders them, in jinja's
immutable sandbox: a template is somebody's text, and may neither reach an attribute it was not
given nor change one.
"""

import dataclasses
import functools
import json
import pathlib

import jinja2
import jinja2.sandbox
import tokenizers

from aevo_jax.data.tokenizer import BOS, CHAT_TEMPLATE, EOS, PAD

TOKENIZER_CONFIG, GENERATION_CONFIG, TEMPLATE = (
  'tokenizer_config.json',
  'generation_config.json',
  'chat_template.jinja',
)


class ChatTemplateError(ValueError):
  """The base's chat format cannot be used; the message names the file and the fix."""


@dataclasses.dataclass(frozen=True)
class ChatFormat:
  """bos ('' for none), eos, pad: tokens. stops: ids that end a completion besides eos, which a base
  may write before it is trained on eos.
  """

  template: str
  bos: str
  eos: str
  pad: str
  stops: tuple[int, ...] = ()

  def prompt(self, question: str) -> str:
    """The user's turn and the opening of the model's.

    Raises:
      ChatTemplateError: the template refuses a conversation of one user turn.
    """
    return self._render([{'role': 'user', 'content': question}], 'a conversation of one user turn')

  def conversation(self, messages: list[dict[str, str]], *, opened: bool = True) -> str:
    """A conversation of any turns, {'role', 'content'} each. opened: the model's turn begins after
    it; if not, it is the last message, which goes on where its text ends.

    Raises:
      ChatTemplateError: the template refuses it, or leaves the last message out.
    """
    if opened:
      return self._render(messages, 'such a conversation')
    mark = '<here it goes on> '
    text, found, rest = self._render(
      [*messages[:-1], messages[-1] | {'content': messages[-1]['content'] + mark}],
      'such a conversation',
      opened,
    ).rpartition(mark.strip())
    if not found:
      raise ChatTemplateError(
        'the chat template leaves out what the model was to go on with, '
        f'{messages[-1]["content"]!r}; it gave {rest!r}'
      )
    return (
      text if rest.startswith(' ') else text.rstrip()
    )  # as transformers: a template that strips its messages strips this one

  def following(self, question: str) -> str:
    """What stands between the model's last answer, with its end token, and its next one: a further
    turn of the user.

    Raises:
      ChatTemplateError: the template refuses such a conversation, or does not end an answer with
        `eos`.
    """
    answer = 'the answer'
    whole = self._render(
      [
        {'role': 'user', 'content': 'the question'},
        {'role': 'assistant', 'content': answer},
        {'role': 'user', 'content': question},
      ],
      'a conversation of several turns',
    )
    _, found, rest = whole.partition(answer + self.eos)
    if not found:
      raise ChatTemplateError(
        f"the chat template does not end the model's turn with {self.eos!r}, so a "
        f'conversation cannot go on after it; it gave {whole!r}'
      )
    return rest

  def _render(self, messages: list[dict[str, str]], what: str, opened: bool = True) -> str:
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
      raise ChatTemplateError(f'the chat template does not render {what}: {error}') from error


MICRO = ChatFormat(CHAT_TEMPLATE, BOS, EOS, PAD)


@functools.cache
def _compiled(template: str) -> jinja2.Template:
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=['jinja2.ext.loopcontrols']
  )
  environment.filters['tojson'] = lambda value, **options: json.dumps(
    value, ensure_ascii=False, **options
  )  # jinja's own escapes HTML
  environment.globals |= {'raise_exception': _refuse, 'strftime_now': _no_clock}
  return environment.from_string(template)


def _refuse(message: str):
  raise jinja2.TemplateError(message)


def _no_clock(form: str):
  raise jinja2.TemplateError(
    f"it writes today's date ({form}), and a score must not depend on the day: write a "
    'fixed one into the template'
  )


@functools.cache
def read(directory: str) -> ChatFormat:
  """The chat format of the base in `directory`, which holds tokenizer.json beside the files named
  above.

  Raises:
    ChatTemplateError: no template, end or pad token, one that the tokenizer does not have, or a
      template that does not render.
  """
  folder = pathlib.Path(directory)
  path = folder / TOKENIZER_CONFIG
  config, generation = (
    _json(path),
    _json(folder / GENERATION_CONFIG) if (folder / GENERATION_CONFIG).exists() else {},
  )
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  template = (
    (folder / TEMPLATE).read_text()
    if (folder / TEMPLATE).exists()
    else _default(config.get('chat_template'))
  )
  if not template:
    raise ChatTemplateError(
      f'{path} has no chat_template, and there is no {TEMPLATE} beside it; take an '
      'instruction-tuned checkpoint, or write the template there'
    )
  names = {role: _token(config.get(f'{role}_token')) for role in ('bos', 'eos', 'pad')}
  for role in ('eos', 'pad'):
    if names[role] is None:
      raise ChatTemplateError(
        f"{path} has no {role}_token; write one of the tokenizer's special tokens there"
      )
  for role, name in names.items():
    if name is not None and tokenizer.token_to_id(name) is None:
      raise ChatTemplateError(
        f'{path}: the {role}_token {name!r} is not in tokenizer.json; write one that is'
      )
  ends = generation.get('eos_token_id')
  ends = [ends] if isinstance(ends, int) else ends or []
  eos = tokenizer.token_to_id(names['eos'])
  chat = ChatFormat(
    template, names['bos'] or '', names['eos'], names['pad'], tuple(sorted({*ends} - {eos}))
  )
  try:
    rendered = chat.prompt('What is 1 + 1?')
  except ChatTemplateError as error:
    raise ChatTemplateError(f'{path}: {error}') from error
  if 'What is 1 + 1?' not in rendered:
    raise ChatTemplateError(
      f"{path}: the chat template leaves the user's text out; it gave {rendered!r}"
    )
  return chat


def _default(template: str | list | None) -> str | None:
  """The template itself, or the one named 'default' where a checkpoint has several."""
  if isinstance(template, list):
    return next(
      (entry.get('template') for entry in template if entry.get('name') == 'default'), None
    )
  return template


def _token(value: str | dict | None) -> str | None:
  return value.get('content') if isinstance(value, dict) else value


def _json(path: pathlib.Path) -> dict:
  try:
    fields = json.loads(path.read_text())
  except FileNotFoundError:
    raise ChatTemplateError(f'there is no {path}; copy it from the checkpoint') from None
  except ValueError as error:
    raise ChatTemplateError(f'{path} is not JSON: {error}') from None
  if not isinstance(fields, dict):
    raise ChatTemplateError(f'{path} must hold a JSON object')
  return fields
