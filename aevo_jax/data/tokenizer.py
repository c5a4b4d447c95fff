"""The micro base's tokenizer: one token per character, and a few words of the puzzles' language.

It is made with the `tokenizers` library. Any engine that reads `tokenizer.json` (vLLM, Hugging
Face) gets the same ids. Words such as `bits` or `boxed` are single tokens wherever they occur;
everything else printable is spelled. Text outside ASCII becomes <|unk|>.
"""

import functools
import json
import pathlib
import string

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from aevo_jax import faults

FILE = 'tokenizer.json'
PAD = '<|pad|>'
BOS = '<|bos|>'
EOS = '<|eos|>'
USER = '<|user|>'
ASSISTANT = '<|assistant|>'
UNK = '<|unk|>'
SPECIALS = (PAD, BOS, EOS, USER, ASSISTANT, UNK)
WORDS = (
  'bits',
  'code',
  'roman',
  'unit',
  'fall',
  'calc',
  'boxed',
  'rot',
  'shl',
  'shr',
  'xor',
  'and',
  'maj',
  'add',
  'sub',
  'mul',
  'abs',
  'cat',
  'rev',
  'swap',
)
CHAT_TEMPLATE = (
  "{% for message in messages %}{% if message['role'] == 'assistant' %}<|assistant|>{{ "
  "message['content'] }}<|eos|>"
  "{% else %}<|user|>{{ message['content'] }}{% endif %}{% endfor %}{% if "
  'add_generation_prompt %}<|assistant|>{% endif %}'
)


def build() -> tokenizers.Tokenizer:
  """Makes the tokenizer: a closed vocabulary, without training.

  Returns:
    Ids count special tokens first, then words, then printable characters.
  """
  characters = [c for c in string.printable if c in ' \n' or not c.isspace()]
  vocabulary = {token: i for i, token in enumerate([*SPECIALS, *WORDS, *characters])}
  tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
  tokenizer.add_special_tokens(list(SPECIALS))
  pattern = '|'.join([*sorted(WORDS, key=len, reverse=True), r'[\s\S]'])
  tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(pattern), behavior='isolated')
  tokenizer.decoder = decoders.Fuse()
  return tokenizer


def save(directory: pathlib.Path, model_max_length: int) -> None:
  """Writes tokenizer.json and tokenizer_config.json (with the chat template).

  Args:
    directory: of the base.
    model_max_length: positions of the model.
  """
  build().save(str(directory / 'tokenizer.json'))
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'pad_token': PAD,
    'bos_token': BOS,
    'eos_token': EOS,
    'unk_token': UNK,
    'model_max_length': model_max_length,
    'clean_up_tokenization_spaces': False,
    'chat_template': CHAT_TEMPLATE,
  }
  (directory / 'tokenizer_config.json').write_text(json.dumps(config, indent=2) + '\n')


@functools.cache
def load(path: str) -> tokenizers.Tokenizer:
  """Reads a tokenizer.json.

  Args:
    path: the file, or the directory that holds it.

  Returns:
    The same object for the same path. It neither cuts nor pads: transformers leaves the settings of
    its last call in the file, and ignores them when it reads it, as this does.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged.
  """
  file = pathlib.Path(path)
  if file.is_dir():
    file = file / FILE
  if not file.exists():
    raise FileNotFoundError(
      f'no tokenizer at {file}; a base directory needs tokenizer.json beside its weights'
    )
  try:
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
  except Exception as error:  # the library raises nothing more special
    raise ValueError(
      f'{file} is damaged or no tokenizer ({error}); {faults.again(file)}'
    ) from error
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer


def check_vocabulary(directory: pathlib.Path, vocab_size: int) -> None:
  """Checks that the model has an embedding for every token.

  Args:
    directory: of the base, with a tokenizer.json.
    vocab_size: rows of the embedding.

  Raises:
    ValueError: the tokenizer is damaged, or has an id beyond the embedding.
  """
  vocabulary = load(str(directory)).get_vocab(with_added_tokens=True)
  token = max(vocabulary, key=vocabulary.__getitem__)
  if vocabulary[token] >= vocab_size:
    raise ValueError(
      f'{directory / FILE} has token {vocabulary[token]}, and the model of config.json has a '
      f'vocabulary of {vocab_size}; they do not belong together: copy both from one checkpoint'
    )
