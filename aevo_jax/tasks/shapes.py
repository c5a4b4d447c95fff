"""Shapes of records that data sets have: which field holds the question, the reply and the key."""

import dataclasses
import math
import string
from collections.abc import Mapping
from typing import Any

_USER = ('user', 'human', 'prompter')
_MODEL = ('assistant', 'gpt', 'model', 'bot', 'chatgpt')
_SYSTEM = ('system', 'developer')
KEYS = (
  'answer',
  'ground_truth',
  'final_answer',
  'expected_answer',
  'answerKey',
  'target',
  'label',
)
_REPLIES = ('solution', 'completion', 'response', 'output', 'rationale', 'generated_solution')
_NOTHING = (None, '', [], {})
_CHOICES = ('choices', 'options')
# What a question may speak of, and a task has no field for.
_BESIDE = (
  'context',
  'passage',
  'article',
  'image',
  'images',
  'video',
  'videos',
  'audio',
  'audios',
  'tools',
)


class ShapeError(ValueError):
  """A record is no question with an answer; the message says why, without its place."""


@dataclasses.dataclass(frozen=True)
class Exchange:
  """One question with what is known of its answer.

  Attributes:
    shape: what the shape of the record is called.
    question: the user's turn.
    reply: the model's turn, which may hold the answer; '' without one.
    key: the right answer; '' where a record has no field for it.
    system: the system prompt; '' without one.
    family: of the record's own; '' where it names none.
  """

  shape: str
  question: str
  reply: str = ''
  key: str = ''
  system: str = ''
  family: str = ''


def detect(fields: Mapping[str, Any]) -> str:
  """Names the shape of a record by its fields; '' where it is none of ours."""
  for name, needed, alternatives in _SHAPES:
    one = not alternatives or any(field in fields for field in alternatives)
    if one and all(field in fields for field in needed):
      return name
  return ''


def exchange(value: Any) -> Exchange:
  """Reads a record.

  Args:
    value: a JSON value.

  Returns:
    The question and what is known of its answer.

  Raises:
    ShapeError: no object of a known shape, or not one question with one reply.
  """
  if not isinstance(value, dict):
    raise ShapeError(f'expected an object, got {type(value).__name__}')
  shape = detect(value)
  if not shape:
    names = ', '.join([_shown(name) for name in list(value)[:8]]) or 'none'
    raise ShapeError(f'no known shape has the fields {names}')
  if shape == PREFERENCES:
    raise ShapeError('chosen and rejected are a preference; a task has one right answer')
  beside = [name for name in _BESIDE if value.get(name)]
  if beside:
    raise ShapeError(
      f'a field {beside[0]!r} stands beside the question, and a task has none; write it into the '
      'question, or leave the field out'
    )
  return _with_choices(_READERS[shape](shape, value), value)


def _shown(name: str) -> str:
  """A field's name, short and without characters that a terminal cannot print."""
  return name[:40] if name.isprintable() else ascii(name)[:40]


def _messages(shape: str, fields: dict[str, Any]) -> Exchange:
  turns = fields['messages'] if shape == MESSAGES else fields['conversations']
  return _with_key(_turns(shape, turns, fields.get('system')), fields)


def _prompt(shape: str, fields: dict[str, Any]) -> Exchange:
  """A prompt, as text or messages, with a completion or an answer."""
  prompt = fields['prompt']
  if isinstance(prompt, list):
    completion = fields.get('completion')
    turns = [*prompt, *completion] if isinstance(completion, list) else prompt
    told = _turns(shape, turns, fields.get('system'))
  else:
    system = _optional(fields, 'system', 'system_prompt')
    told = Exchange(shape, _text('prompt', prompt), system=system)
  if not told.reply and not isinstance(fields.get('completion'), list):
    told = dataclasses.replace(told, reply=_optional(fields, *_REPLIES))
  return _with_key(told, fields)


def _verl(shape: str, fields: dict[str, Any]) -> Exchange:
  reward = fields['reward_model']
  if not isinstance(reward, dict) or 'ground_truth' not in reward:
    raise ShapeError('reward_model has no ground_truth')
  key = _text('reward_model.ground_truth', reward['ground_truth'])
  told = _prompt(shape, {'prompt': fields['prompt']})
  extra = fields.get('extra_info')
  reply = extra.get('answer') if isinstance(extra, dict) else None
  family = fields.get('data_source')
  return dataclasses.replace(
    told,
    key=key,
    reply=reply if isinstance(reply, str) else '',
    family=family if isinstance(family, str) else '',
  )


def _alpaca(shape: str, fields: dict[str, Any]) -> Exchange:
  if fields.get('history'):
    raise ShapeError('there is a history; a task is one question and its answer')
  question = _text('instruction', fields['instruction'])
  given = _optional(fields, 'input')
  if given:
    question = f'{question}\n{given}'
  told = Exchange(shape, question, _optional(fields, 'output'), system=_optional(fields, 'system'))
  return _with_key(told, fields)


def _question(shape: str, fields: dict[str, Any]) -> Exchange:
  name = 'question' if 'question' in fields else 'problem'
  told = Exchange(shape, _text(name, fields[name]), _optional(fields, *_REPLIES))
  return _with_key(told, fields)


def _with_key(told: Exchange, fields: dict[str, Any]) -> Exchange:
  """Adds the family and the answer that fields of their own hold."""
  family = fields.get('family')
  if isinstance(family, str):
    told = dataclasses.replace(told, family=family)
  return dataclasses.replace(told, key=_optional(fields, *KEYS))


def _with_choices(told: Exchange, fields: dict[str, Any]) -> Exchange:
  """Writes the choices of a question below it, with the letter of the right one as its key."""
  given = next((fields[name] for name in _CHOICES if fields.get(name) not in _NOTHING), None)
  if given is None:
    return told
  labels, values = _labelled(given)
  texts = [_text('a choice', value) for value in values]
  letters = string.ascii_uppercase
  if not 2 <= len(texts) <= len(letters):
    raise ShapeError(f'there are {len(texts)} choices; letters name 2 to {len(letters)}')
  key = next((fields[name] for name in KEYS if fields.get(name) not in _NOTHING), told.key)
  word = _text('answer', key).strip()
  places = set()
  if isinstance(key, int) and labels is None:
    places = {key} & set(range(len(texts)))
  if not places or not all(isinstance(value, str) for value in values):
    names = (word, word.strip('().:').upper())
    for place, (label, text) in enumerate(zip(labels or letters, texts, strict=False)):
      if label.upper() in names or text.strip() == word:
        places.add(place)
  if len(places) != 1:
    raise ShapeError(
      f'the answer names {len(places)} of the choices; it must be the letter, the text or, from 0, '
      'the number of one'
    )
  listed = '\n'.join([f'{letter}. {text}' for letter, text in zip(letters, texts, strict=False)])
  return dataclasses.replace(
    told, question=f'{told.question}\n\n{listed}', key=letters[places.pop()]
  )


def _labelled(choices: Any) -> tuple[list[str] | None, list[Any]]:
  """The labels of choices, None where they have none, and the choices."""
  if isinstance(choices, list):
    if not all(
      isinstance(choice, dict) and {'label', 'text'} <= choice.keys() for choice in choices
    ):
      return None, choices
    return [_text('label', choice['label']) for choice in choices], [c['text'] for c in choices]
  if not isinstance(choices, dict):
    raise ShapeError(f'choices are {type(choices).__name__} and no list')
  labels, values = choices.get('label'), choices.get('text')
  if not isinstance(labels, list) or not isinstance(values, list):
    return list(choices), list(choices.values())
  if len(labels) != len(values):
    raise ShapeError(f'{len(labels)} labels and {len(values)} texts of choices')
  return [_text('label', label) for label in labels], values


def _turns(shape: str, turns: Any, system: Any) -> Exchange:
  """One turn of the user and at most one of the model behind it."""
  if not isinstance(turns, list) or not turns:
    raise ShapeError(f'expected a list of turns, got {type(turns).__name__}')
  systems = [_text('system', system)] if system else []
  said: dict[str, list[str]] = {'user': [], 'model': []}
  for turn in turns:
    who = _role(turn)
    content = _content(turn)
    if who == 'system':
      systems.append(content)
    elif who == 'model' and not said['user']:
      raise ShapeError("the model's turn stands before any question")
    else:
      said[who].append(content)
  if len(said['user']) != 1 or len(said['model']) > 1:
    raise ShapeError(
      f'{len(said["user"])} turns of the user and {len(said["model"])} of the model; a task is one '
      'question and its answer'
    )
  reply = said['model'][0] if said['model'] else ''
  return Exchange(shape, said['user'][0], reply, system='\n\n'.join(filter(None, systems)))


def _role(turn: Any) -> str:
  if not isinstance(turn, dict):
    raise ShapeError(f'a turn is {type(turn).__name__} and no object')
  role = turn.get('role', turn.get('from'))
  for name, words in (('user', _USER), ('model', _MODEL), ('system', _SYSTEM)):
    if role in words:
      return name
  raise ShapeError(f'a turn is of {role!r}; a task has turns of the user and the model alone')


def _content(turn: dict[str, Any]) -> str:
  """The text of a turn, of which parts other than text are none."""
  content = turn.get('content', turn.get('value'))
  if turn.get('tool_calls'):
    raise ShapeError('a turn calls tools')
  if not isinstance(content, list):
    return _text('content of a turn', content)
  texts = []
  for part in content:
    if not isinstance(part, dict) or part.get('type') != 'text':
      raise ShapeError('a turn holds more than text')
    texts.append(_text('text of a turn', part.get('text')))
  return '\n'.join(texts)


def _optional(fields: Mapping[str, Any], *names: str) -> str:
  """The text of the first field that is there and not empty; ''."""
  for name in names:
    if fields.get(name) not in _NOTHING:
      return _text(name, fields[name])
  return ''


def _text(name: str, value: Any) -> str:
  """A string; of a number its digits."""
  if isinstance(value, list) and len(value) == 1:
    value = value[0]
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)
  if isinstance(value, float) and math.isfinite(value):
    return format(value, 'f').rstrip('0').rstrip('.') if value == round(value) else repr(value)
  if not isinstance(value, str):
    raise ShapeError(f'{name} is {type(value).__name__} and no text')
  return value


MESSAGES = 'messages'
SHAREGPT = 'ShareGPT'
PREFERENCES = 'preferences'
# Name of a shape, fields that it has, and others of which it has one.
_SHAPES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
  (PREFERENCES, ('chosen', 'rejected'), ()),
  (MESSAGES, ('messages',), ()),
  (SHAREGPT, ('conversations',), ()),
  ('verl', ('prompt', 'reward_model'), ()),
  ('prompt and completion', ('prompt', 'completion'), ()),
  ('alpaca', ('instruction', 'output'), ()),
  ('question and answer', ('question',), (*KEYS, *_REPLIES)),
  ('problem and solution', ('problem',), (*KEYS, *_REPLIES)),
  ('prompt and answer', ('prompt',), (*KEYS, *_REPLIES)),
)
_READERS = {
  MESSAGES: _messages,
  SHAREGPT: _messages,
  'verl': _verl,
  'prompt and completion': _prompt,
  'alpaca': _alpaca,
  'question and answer': _question,
  'problem and solution': _question,
  'prompt and answer': _prompt,
}
