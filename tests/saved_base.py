"""A tiny Qwen3 or Nemotron-H base with the files that transformers saves beside the weights.

The weights are random. The tokenizer has a token for every ASCII character, and speaks ChatML.
"""

import json
import pathlib

import ml_dtypes
import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import decoders, models, pre_tokenizers

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint as hf_checkpoint
from aevo_jax.models.params import outline

SPECIAL = ('<|endoftext|>', '<|im_start|>', '<|im_end|>', '<unk>')
CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
# As TRL's training templates mark what the model says.
CHATML_WITH_GENERATION = """{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}{% generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""  # noqa: E501
QWEN3 = ModelConfig(
  family='qwen3',
  qk_norm=True,
  mlp_activation='swiglu',
  rope_theta=10000.0,
  vocab_size=112,
  hidden_size=16,
  pattern='*-*-',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=8,
  intermediate_size=24,
)
NEMOTRON_H = ModelConfig(
  vocab_size=112,
  hidden_size=16,
  pattern='M-*-',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=8,
  intermediate_size=24,
  mamba_num_heads=2,
  mamba_head_dim=8,
  ssm_state_size=8,
  chunk_size=8,
)


def write(
  directory: pathlib.Path,
  model: ModelConfig = QWEN3,
  *,
  template: str = CHATML,
  config: dict | None = None,
  tokenizer_config: dict | None = None,
  tokenizer_json: dict | None = None,
  more_tokens: int = 0,
  mtp: bool = False,
) -> pathlib.Path:
  """Writes the checkpoint.

  Args:
    directory: is made.
    model: `QWEN3`, `NEMOTRON_H` or one like them.
    template: of `chat_template.jinja`.
    config: fields put into `config.json`.
    tokenizer_config: fields put into `tokenizer_config.json`.
    tokenizer_json: blocks put into `tokenizer.json`.
    more_tokens: special tokens beyond those of the characters; over 9, they have no embedding.
    mtp: whether two tensors of a head for further tokens lie beside the model's.

  Returns:
    The directory.
  """
  directory.mkdir(parents=True)
  fields = hf_checkpoint.config_to_hf(model, eos_token_id=2, pad_token_id=0) | (config or {})
  (directory / 'config.json').write_text(json.dumps(fields))
  (directory / 'chat_template.jinja').write_text(template)
  settings = {'eos_token': '<|im_end|>', 'pad_token': '<|endoftext|>', 'model_max_length': 2048}
  settings |= tokenizer_config or {}
  (directory / 'tokenizer_config.json').write_text(json.dumps(settings))
  generation = {'eos_token_id': 2, 'pad_token_id': 0}
  (directory / 'generation_config.json').write_text(json.dumps(generation))
  blocks = json.loads(_tokenizer(more_tokens).to_str()) | (tokenizer_json or {})
  (directory / 'tokenizer.json').write_text(json.dumps(blocks))
  tensors = _tensors(model)
  if mtp:
    tensors['mtp.layers.0.eh_proj.weight'] = np.ones((4, 6), ml_dtypes.bfloat16)
    tensors['mtp.layers.0.norm.weight'] = np.ones(4, np.float32)
  save_file(tensors, directory / 'model.safetensors', metadata={'format': 'pt'})
  return directory


def write_tasks(path: pathlib.Path, count: int = 48) -> pathlib.Path:
  """Writes sums, a JSON object a line, and returns the path."""
  rows = (
    {'prompt': f'What is {i} plus {i + 7}?', 'answer': str(2 * i + 7), 'family': 'sums'}
    for i in range(count)
  )
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def _tokenizer(more_tokens: int) -> tokenizers.Tokenizer:
  characters = [*map(chr, range(32, 127)), '\n']
  words = [*SPECIAL, *characters]
  tokenizer = tokenizers.Tokenizer(
    models.WordLevel({word: i for i, word in enumerate(words)}, unk_token='<unk>')
  )
  tokenizer.add_special_tokens([*SPECIAL, *(f'<|extra_{i}|>' for i in range(more_tokens))])
  tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r'[\s\S]'), behavior='isolated')
  tokenizer.decoder = decoders.Fuse()
  return tokenizer


def _tensors(model: ModelConfig) -> dict[str, np.ndarray]:
  """Random tensors under Hugging Face's names, small enough for an untrained model to be calm."""
  rng = np.random.default_rng(0)
  tensors = {}
  for name, value in outline(model)[1].items():
    stored = hf_checkpoint.to_hf(name, rng.normal(0, 0.05, value.shape).astype(np.float32))
    tensors[hf_checkpoint.hf_name(name, model)] = np.ascontiguousarray(stored)
  return tensors
