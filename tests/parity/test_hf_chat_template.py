"""Prompts as Hugging Face's tokenizers render and encode them, from the same files."""

import json
import pathlib
import shutil
import subprocess

import pytest

from aevo_jax import layout
from aevo_jax.data import chat_template
from aevo_jax.data import tokenizer as tokenizers

PYTHON = pathlib.Path(__file__).parents[2] / 'third_party' / 'parity' / '.venv' / 'bin' / 'python'
BASE = layout.root_file('substrate') / 'base'
QUESTIONS = (
  'bits 01>10 11>00 10=?',
  ' two\nlines & <angles> {{ braces }} "quotes" \'more\' ',
  'é ü 漢',
  '',
)
# Idioms of published templates: trimming in both spellings, namespaces, reversed messages,
# defaults, loop controls, JSON, conditions on what was not given.
TEMPLATES = {
  'its own': None,
  'chatml': (
    "{%- if messages[0].role == 'system' %}\n    {{- '<|bos|>system\\n' + "
    "messages[0].content + '<|eos|>\\n' }}\n{%- endif %}\n"
    '{%- set ns = namespace(last=messages|length - 1) %}\n{%- for message in '
    'messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n'
    "    {%- if message.role == 'user' %}\n        {%- set ns.last = index %}\n    {%- "
    'endif %}\n{%- endfor %}\n{%- for message in messages %}\n'
    "    {{- '<|user|>' + message.role + ns.last|string + '\\n' + message.content + "
    "'<|eos|>' + '\\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
    "    {{- '<|assistant|>\\n' }}\n    {%- if enable_thinking is defined and "
    "enable_thinking is false %}\n        {{- 'never' }}\n    {%- endif %}\n{%- endif %}\n"
  ),
  'blocks': (
    '{{ bos_token }}\n  {% for message in messages %}\n    {% if loop.index > 3 %}\n     '
    " {% break %}\n    {% endif %}\n  [{{ message['content'] | trim }}]\n"
    '  {% endfor %}\n{% if tools %}T{% endif %}{{ eos_token }} A:'
  ),
  'generation': (
    '{% set mark = "-" %}{% for message in messages %}\n  {% generation %}\n'
    '{% set mark = "+" %}{{ message.content }}{{ mark }}\n  {% endgeneration %}\n{{ mark }}'
    '{%- generation -%} {{ message.role }} {%- endgeneration -%} {% endfor %}'
  ),
  'json': (
    '{% for message in messages %}{{ message | tojson }}{{ message.content | '
    "tojson(indent=2) }}{% endfor %}{{ x | default('none') }}"
  ),
}
PROGRAM = """
import json, sys
from transformers import AutoTokenizer
for folder in sys.argv[2:]:
  tokenizer = AutoTokenizer.from_pretrained(folder)
  for question in json.loads(sys.argv[1]):
    chat = [{'role': 'user', 'content': question}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    encoded = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
    print(json.dumps([text, encoded['input_ids']]))
"""


@pytest.mark.parity
def test_prompts_are_those_of_hugging_face(tmp_path):
  for name, template in TEMPLATES.items():
    folder = tmp_path / name
    folder.mkdir()
    for file in (
      'config.json',
      'tokenizer.json',
      'tokenizer_config.json',
      'generation_config.json',
    ):
      shutil.copyfile(BASE / file, folder / file)
    if name == 'generation':  # what a call of transformers with these settings leaves in the file
      tokenizer = tokenizers.build()
      tokenizer.enable_truncation(4)
      tokenizer.enable_padding(length=64, pad_token=tokenizers.PAD)
      tokenizer.save(str(folder / 'tokenizer.json'))
    if template is not None:
      fields = json.loads((folder / 'tokenizer_config.json').read_text())
      (folder / 'tokenizer_config.json').write_text(
        json.dumps(fields | {'chat_template': template})
      )
  folders = [tmp_path / name for name in TEMPLATES]
  said = subprocess.run(
    [PYTHON, '-c', PROGRAM, json.dumps(QUESTIONS), *map(str, folders)],
    capture_output=True,
    text=True,
    timeout=300,
    check=True,
  ).stdout
  expected = [json.loads(line) for line in said.splitlines()]
  assert len(expected) == len(TEMPLATES) * len(QUESTIONS)
  ours = []
  for folder in folders:
    chat, tokenizer = chat_template.read(str(folder)), tokenizers.load(str(folder))
    ours += [
      [text := chat.prompt(question), tokenizer.encode(text, add_special_tokens=False).ids]
      for question in QUESTIONS
    ]
  assert ours == expected
