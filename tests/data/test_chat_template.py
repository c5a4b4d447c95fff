"""The base's own chat format: rendered as transformers renders it, in a sandbox, with its end and
pad tokens; and the micro base's, which must not move.
"""

import itertools
import json

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from aevo_jax import layout
from aevo_jax.data import chat_template, corpus
from aevo_jax.data import tokenizer as base_tokenizer
from aevo_jax.data.chat_format import chat_sequence
from aevo_jax.data.chat_template import MICRO, ChatFormat, ChatTemplateError
from aevo_jax.data.corpus import Corpus
from aevo_jax.data.pipeline import SftSource
from aevo_jax.tasks import own_data
from aevo_jax.tasks.mixture import Mixture, item_at
from aevo_jax.tasks.own_data import TaskFileError

BASE = layout.root_file('substrate') / 'base'
# ChatML as Qwen writes it: block tags on lines of their own, which trim_blocks and lstrip_blocks
# make vanish.
CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
TRIMMED = (
  '{% for message in messages %}\n  {% if loop.index > 5 %}{% break %}{% endif %}\n{{ '
  "bos_token }}[{{ message['content'] }}]{% endfor %}\nA:"
)
WORDS = ('<pad>', '<|im_start|>', '<|im_end|>', '<|endoftext|>', '<unk>')


@pytest.fixture
def checkpoint(tmp_path):
  """checkpoint(tokenizer_config changes, generation_config or None) -> a directory with
  one-character tokens and ChatML.
  """

  def make(changes: dict, generation: dict | None = None):
    characters = [chr(c) for c in range(32, 127)] + ['\n']
    tokenizer = tokenizers.Tokenizer(
      models.WordLevel({t: i for i, t in enumerate([*WORDS, *characters])}, unk_token='<unk>')
    )
    tokenizer.add_special_tokens(list(WORDS))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r'[\s\S]'), behavior='isolated')
    tokenizer.decoder = decoders.Fuse()
    folder = (
      tmp_path / f'c{len(list(tmp_path.iterdir()))}'
    )  # what was read of a folder is remembered
    folder.mkdir()
    tokenizer.save(str(folder / 'tokenizer.json'))
    config = {
      'eos_token': {'content': '<|im_end|>', 'lstrip': False},
      'pad_token': '<pad>',
      'bos_token': None,
      'chat_template': CHATML,
    } | changes
    (folder / 'tokenizer_config.json').write_text(
      json.dumps({k: v for k, v in config.items() if v != 'absent'})
    )
    if generation is not None:
      (folder / 'generation_config.json').write_text(json.dumps(generation))
    return folder

  return make


def test_conversations_of_any_turns_open_the_model_s_or_go_on_with_it(checkpoint):
  chat = chat_template.read(str(checkpoint({})))
  turns = [{'role': 'system', 'content': 'S'}, {'role': 'user', 'content': 'Q'}]
  opened = '<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n'
  assert chat.conversation(turns) == opened
  assert (
    chat.conversation([*turns, {'role': 'assistant', 'content': 'It is '}], opened=False)
    == opened + 'It is '
  )
  assert (
    MICRO.conversation(
      [
        {'role': 'user', 'content': 'q'},
        {'role': 'assistant', 'content': 'a'},
        {'role': 'user', 'content': 'r'},
      ]
    )
    == '<|user|>q<|assistant|>a<|eos|><|user|>r<|assistant|>'
  )
  stripping = ChatFormat(
    "{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}", '', '<|im_end|>', '<pad>'
  )
  assert (
    stripping.conversation([{'role': 'assistant', 'content': 'It is '}], opened=False) == '[It is'
  )
  with pytest.raises(ChatTemplateError, match='leaves out what the model was to go on with'):
    ChatFormat('nothing', '', '<|im_end|>', '<pad>').conversation(
      [{'role': 'assistant', 'content': 'It is'}], opened=False
    )


def test_the_micro_base_renders_what_it_always_did():
  chat = chat_template.read(str(BASE))
  assert (chat.template, chat.bos, chat.eos, chat.pad, chat.stops) == (
    MICRO.template,
    '<|bos|>',
    '<|eos|>',
    '<|pad|>',
    (),
  )
  tokenizer = base_tokenizer.load(str(BASE))

  def ids(text):
    return tokenizer.encode(text, add_special_tokens=False).ids

  for question in (
    *(item_at(1, 'train', i, Mixture()).question for i in range(40)),
    ' a\n{{ b }} {% c %}<&>\n',
  ):
    assert chat.prompt(question) == MICRO.prompt(question) == f'<|user|>{question}<|assistant|>'
  for item in (item_at(2, 'train', i, Mixture()) for i in range(40)):
    pieces = [
      ids(f'<|user|>{item.question}<|assistant|>'),
      ids(item.reasoning),
      ids(f'\\boxed{{{item.answer}}}<|eos|>'),
    ]
    sequence = chat_sequence(item, tokenizer, reasoning_weight=0.5, chat=chat)
    weights = [[w] * len(p) for p, w in zip(pieces, (0.0, 0.5, 1.0), strict=True)]
    assert sequence.tokens.tolist() == list(itertools.chain(*pieces))
    assert sequence.weights.tolist() == list(itertools.chain(*weights))


def test_a_conversation_goes_on_after_an_answer():
  assert chat_template.MICRO.following('calc 7') == '<|user|>calc 7<|assistant|>'


def test_another_template_is_rendered_with_its_own_tokens(checkpoint):
  chat = chat_template.read(str(checkpoint({}, {'eos_token_id': [2, 3]})))
  assert chat.prompt('Hi {{x}}') == '<|im_start|>user\nHi {{x}}<|im_end|>\n<|im_start|>assistant\n'
  assert (
    chat.following('And {{y}}?')
    == '\n<|im_start|>user\nAnd {{y}}?<|im_end|>\n<|im_start|>assistant\n'
  )
  assert (chat.eos, chat.pad, chat.stops) == ('<|im_end|>', '<pad>', (3,))
  assert (
    chat_template.read(str(checkpoint({}, {'eos_token_id': 2}))).stops
    == chat_template.read(str(checkpoint({}))).stops
    == ()
  )
  trimmed = chat_template.read(str(checkpoint({'chat_template': TRIMMED, 'bos_token': '<unk>'})))
  with pytest.raises(chat_template.ChatTemplateError, match='does not end the model'):
    trimmed.following('q')
  assert trimmed.prompt('q') == '<unk>[q]A:'  # trim_blocks takes the line break after a block tag


def test_a_template_file_and_a_named_default_are_read(checkpoint):
  folder = checkpoint({'chat_template': 'absent'})
  (folder / 'chat_template.jinja').write_text('U {{ messages[0].content }} A')
  assert chat_template.read(str(folder)).prompt('q') == 'U q A'
  several = [
    {'name': 'tools', 'template': 'T'},
    {'name': 'default', 'template': 'D {{ messages[0].content }}'},
  ]
  assert chat_template.read(str(checkpoint({'chat_template': several}))).prompt('q') == 'D q'


# A template with the tag by which transformers marks the model's tokens, and the text of a turn of
# the user, the model and the user.
MARKED = {
  'on one line': (
    '{% for m in messages %}{% if m.role == "assistant" %}{% generation %}{{ m.content }}'
    '{% endgeneration %}{% else %}<{{ m.content }}>{% endif %}{% endfor %}',
    '<a>b<c>',
  ),
  'on lines of its own': (
    '{% for m in messages %}\n  {% generation %}\n{{ m.content }};\n  {% endgeneration %}\n'
    '{% endfor %}',
    'a;\nb;\nc;\n',
  ),
  'with signs that strip': (
    '{% for m in messages %} {%- generation -%} {{ m.content }} {%- endgeneration -%} {% endfor %}',
    'abc',
  ),
  'what is set inside stays inside': (
    '{% set x = "-" %}{% for m in messages %}{% generation %}{% set x = m.content %}{{ x }}'
    '{% endgeneration %}{{ x }}{% endfor %}',
    'a-b-c-',
  ),
}


@pytest.mark.parametrize(('template', 'text'), MARKED.values(), ids=MARKED)
def test_the_generation_tag_marks_and_changes_no_text(template, text):
  chat = ChatFormat(template, '', '<e>', '<p>')
  messages = [
    {'role': role, 'content': content}
    for role, content in (('user', 'a'), ('assistant', 'b'), ('user', 'c'))
  ]
  assert chat.conversation(messages) == text


def test_a_mistake_in_the_template_file_is_blamed_on_it(checkpoint):
  folder = checkpoint({'chat_template': CHATML})
  (folder / 'chat_template.jinja').write_text('{% generator %}')
  with pytest.raises(ChatTemplateError, match=r'chat_template\.jinja: .*unknown tag'):
    chat_template.read(str(folder))
  with pytest.raises(ChatTemplateError, match=r'tokenizer_config\.json: .*unknown tag'):
    chat_template.read(str(checkpoint({'chat_template': '{% generator %}'})))


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'chat_template': 'absent'}, 'has no chat_template'),
    ({'eos_token': None}, 'has no eos_token'),
    ({'pad_token': 'absent'}, 'has no pad_token'),
    ({'pad_token': '<nowhere>'}, "the pad_token '<nowhere>' is not in tokenizer.json"),
    ({'chat_template': '{% if %}'}, 'does not render'),
    ({'chat_template': 'constant'}, "leaves the user's text out"),
    ({'chat_template': "{{ raise_exception('give a system turn') }}"}, 'give a system turn'),
    (
      {'chat_template': "{{ strftime_now('%Y') }} {{ messages[0].content }}"},
      'must not depend on the day',
    ),
    ({'chat_template': '{{ messages.__class__.__mro__ }} {{ messages[0].content }}'}, 'unsafe'),
    ({'chat_template': '{{ messages.append(1) }}'}, 'unsafe'),
    ({'chat_template': 5}, 'chat_template that is no text but 5'),
    ({'chat_template': [{'name': 'default', 'template': 5}]}, 'no text but 5'),
    ({'chat_template': ['text']}, 'no chat_template'),
    ({'eos_token': 5}, r'eos_token = 5 \(only a text'),
    ({'eos_token': ['</s>']}, r"eos_token = \['</s>'\]"),
    ({'pad_token': {'content': 5}}, "pad_token = {'content': 5}"),
    ({'bos_token': True}, 'bos_token = True'),
  ],
)
def test_what_cannot_be_used_is_refused(checkpoint, changes, said):
  with pytest.raises(ChatTemplateError, match=said):
    chat_template.read(str(checkpoint(changes)))


@pytest.mark.parametrize(
  ('config', 'generation', 'said'),
  [
    (
      {'vocab_size': 100},
      None,
      r'tokenizer\.json has token 100, .* vocabulary of 100; .* copy both',
    ),
    ({'vocab_size': 3}, None, 'do not belong together'),
    ({'vocab_size': 101}, {'eos_token_id': [2, 101]}, r'generation_config\.json has 101 as eos'),
    ({'vocab_size': 101}, {'eos_token_id': -1}, r'generation_config\.json has -1 as eos'),
    ({'vocab_size': 101}, {'pad_token_id': 101}, 'has 101 as pad_token_id'),
    ({'vocab_size': 101}, {'pad_token_id': [0]}, r'pad_token_id = \[0\] \(only a token id, or'),
    ({'vocab_size': 101}, {'bos_token_id': 'a'}, "bos_token_id = 'a'"),
    ({'vocab_size': 101}, {'eos_token_id': '2'}, "eos_token_id = '2' \\(only a token id"),
    ({'vocab_size': 101}, {'eos_token_id': [2, 3.5]}, r'eos_token_id = \[2, 3\.5\]'),
    ({'vocab_size': 101}, {'eos_token_id': True}, 'eos_token_id = True'),
    ({'vocab_size': 101}, {'eos_token_id': {'id': 2}}, "eos_token_id = {'id': 2}"),
  ],
)
def test_ids_beyond_the_embedding_are_refused(checkpoint, config, generation, said):
  folder = checkpoint({}, generation)
  (folder / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ChatTemplateError, match=said):
    chat_template.read(str(folder))


def test_an_embedding_may_have_more_rows_than_there_are_tokens(checkpoint):
  folder = checkpoint({}, {'eos_token_id': [2, 110]})
  (folder / 'config.json').write_text('{"vocab_size": 128}')
  assert chat_template.read(str(folder)).stops == (110,)


# How a template ends the model's turn, and what is said of it where eos_token is <|im_end|>.
ENDS = {
  'eos_token': ('[{{ m.content }}{{ eos_token }}]', ''),
  'its text': ('{{ m.content }}<|im_end|>\n', ''),
  'a line before it': ('{{ m.content }}\n<|im_end|>', ''),
  'another token': ('{{ m.content }}<|endoftext|>', "turn with '<|endoftext|>'"),
  'another one first': ('{{ m.content }}<unk><|im_end|>', "turn with '<unk><|im_end|>'"),
  'nothing': ('{{ m.content }}', ''),
  'no turn of the model': ('{% if m.role == "user" %}{{ m.content }}{% endif %}', ''),
  'a refusal of turns of the model': (
    '{% if m.role == "assistant" %}{{ raise_exception("no") }}{% endif %}{{ m.content }}',
    '',
  ),
}


@pytest.mark.parametrize(('turn', 'said'), ENDS.values(), ids=ENDS)
def test_a_template_that_ends_turns_otherwise_is_remarked(checkpoint, turn, said):
  template = '{% for m in messages %}' + turn + '{% endfor %}'
  remark = ' '.join(chat_template.remarks(str(checkpoint({'chat_template': template}))))
  if not said:
    assert remark == ''
  else:
    assert said in remark and "eos_token, '<|im_end|>'" in remark
    assert 'write that token as eos_token into ' in remark


def test_a_folder_without_a_tokenizer_config_is_named(tmp_path):
  with pytest.raises(ChatTemplateError, match=r'there is no .*tokenizer_config.json'):
    chat_template.read(str(tmp_path))


# -- tasks of one's own in that format -------------------------------------------------------------


def tasks(tmp_path, *changes: dict):
  lines = [{'prompt': f'{i} + {i}?', 'answer': str(2 * i), 'family': 'sums'} for i in range(20)]
  lines += [
    {'prompt': 'asked?', 'answer': '1', 'family': 'sums', 'solution': 'think'} | change
    for change in changes
  ]
  path = tmp_path / 'tasks.jsonl'
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return own_data.read(path)


def test_own_tasks_train_in_the_bases_format(tmp_path, checkpoint):
  folder, own = checkpoint({}), tasks(tmp_path, {})
  item = own.items[-1]
  (folder / 'train.jsonl').write_text(own_data.jsonl([item]))
  made = corpus.load(folder)
  tokenizer = base_tokenizer.load(str(folder))
  assert made.items == (item,) and made == corpus.load(folder, [item])
  sequence = SftSource(0, Mixture(), tokenizer, reasoning_weight=0.25, corpus=made)[5]
  text = (
    '<|im_start|>user\nasked?<|im_end|>\n<|im_start|>assistant\n',
    'think\n',
    '\\boxed{1}<|im_end|>',
  )
  assert tokenizer.decode(sequence.tokens.tolist(), skip_special_tokens=False).replace(
    ' ', ''
  ) == ''.join(text).replace(' ', '')
  lengths = [len(tokenizer.encode(part, add_special_tokens=False).ids) for part in text]
  assert sequence.weights.tolist() == [0.0] * lengths[0] + [0.25] * lengths[1] + [1.0] * lengths[2]


@pytest.mark.parametrize(
  'made',
  [Corpus(ChatFormat('x', '', 'e', 'p')), Corpus(MICRO, (item_at(0, 'train', 0, Mixture()),))],
)
def test_plain_replay_is_the_micro_bases_alone(made):
  with pytest.raises(ValueError, match=r'data.plain_share = 0.1'):
    SftSource(0, Mixture(), base_tokenizer.build(), plain_share=0.1, corpus=made)


def test_demonstrations_are_of_puzzles():
  with pytest.raises(ValueError, match=r'data.demonstrations = 5'):
    SftSource(
      0,
      Mixture(),
      base_tokenizer.build(),
      demonstrations=5,
      corpus=Corpus(MICRO, (item_at(0, 'train', 0, Mixture()),)),
    )


@pytest.mark.parametrize(
  ('change', 'limits', 'said'),
  [
    (
      {},
      {'row_length': 20},
      r'tasks\.jsonl:\d+: the task has \d+ tokens with its chat format, and train.row_length is 20',
    ),
    (
      {'solution': 'long ' * 9},
      {'max_new_tokens': 30},
      (
        r':21: solution, answer and end are \d+ tokens, and objective.max_new_tokens lets '
        r'the model write 30'
      ),
    ),
    (
      {'prompt': 'long ' * 30},
      {'max_positions': 180, 'max_new_tokens': None},
      r':21: the task has \d+ tokens with its chat format, and the model 180 positions',
    ),
    (
      {'prompt': 'long ' * 30},
      {'max_positions': 180},
      r':21: the prompt has \d+ tokens, and with objective.max_new_tokens = 40 passes',
    ),
    ({'prompt': 'a <|im_end|> b'}, {}, r":21: '<\|im_end\|>' is a control token"),
  ],
)
def test_tasks_that_do_not_fit_are_named(tmp_path, checkpoint, change, limits, said):
  folder = checkpoint({})

  def check(own):
    return corpus.check_fit(
      own,
      chat_template.read(str(folder)),
      base_tokenizer.load(str(folder)),
      **{'row_length': 300, 'max_new_tokens': 40, 'max_positions': 400} | limits,
    )

  with pytest.raises(TaskFileError, match=said):
    check(tasks(tmp_path, change))
  if change:
    check(tasks(tmp_path))


def test_an_answer_that_the_tokenizer_cannot_write_is_named(tmp_path):
  """The micro base has no ü. Where the tokenizer writes in lower case, the verifier decides whether
  that is still the answer.
  """
  tokenizer = base_tokenizer.build()

  def check(own, verifier):
    return corpus.check_fit(
      own,
      MICRO,
      tokenizer,
      row_length=300,
      max_new_tokens=None,
      max_positions=400,
      verifier=verifier,
    )

  with pytest.raises(
    TaskFileError,
    match=(
      r":21: the base's tokenizer cannot write the answer 'Zürich': boxed, it comes back as "
      r"'.*Z<\|unk\|>rich}'"
    ),
  ):
    check(tasks(tmp_path, {'answer': 'Zürich'}), 'strict')
  check(tasks(tmp_path, {'answer': 'Zuerich', 'prompt': 'Where is Zürich?'}), 'strict')
  tokenizer.normalizer = normalizers.Lowercase()
  check(tasks(tmp_path, {'answer': 'B'}), 'choice')
  with pytest.raises(TaskFileError, match="cannot write the answer 'B'"):
    check(tasks(tmp_path, {'answer': 'B'}), 'strict')
