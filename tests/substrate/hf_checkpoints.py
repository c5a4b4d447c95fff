"""Random Hugging Face checkpoints on disk, for the tests of import and export."""

import json
import pathlib

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint as hf_checkpoint
from aevo_jax.models.params import outline

BF16 = np.dtype(ml_dtypes.bfloat16)
FLOAT32 = np.dtype('float32')
SMALL = ModelConfig(
  vocab_size=19,
  hidden_size=8,
  pattern='ME*-',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=6,
  intermediate_size=10,
  mamba_num_heads=2,
  mamba_head_dim=4,
  ssm_state_size=4,
  chunk_size=8,
  n_routed_experts=3,
  num_experts_per_tok=2,
  moe_intermediate_size=5,
  moe_shared_expert_intermediate_size=7,
)
CARRIED = {
  # Line ends that no writer of JSON makes, to be kept.
  'tokenizer.json': Tokenizer(WordLevel({'a': 0}, unk_token='a')).to_str().encode() + b'\r\n',
  'tokenizer_config.json': b'{"eos_token":  "a", "pad_token": "a"}',
  'chat_template.jinja': b'{{ messages[0].content }}\xc3\xa9',
  'generation_config.json': b'{}\n\n',
}


def tensors_of(
  config, seed=0, *, backbone=False, per_expert=False, mtp=False, dtypes=(FLOAT32,)
) -> dict[str, np.ndarray]:
  """Random tensors under the names and in the shapes that Hugging Face's Nemotron-H gives them, in
  one of the spellings.
  """
  rng, tensors = np.random.default_rng(seed), {}
  for name, value in outline(config)[1].items():
    dtype, stored = dtypes[rng.integers(len(dtypes))], hf_checkpoint.hf_name(name, config)
    full = hf_checkpoint.to_hf(name, rng.standard_normal(value.shape, np.float32)).astype(dtype)
    if per_expert and '.experts.' in stored:
      stem, leaf = stored.rsplit('.', 1)
      tensors |= {
        f'{stem}.{e}.{leaf}.weight': np.ascontiguousarray(full[e]) for e in range(len(full))
      }
    else:
      tensors[stored] = full
  if mtp:
    tensors |= {
      'mtp.layers.0.eh_proj.weight': rng.standard_normal((4, 6)).astype(BF16),
      'mtp.count': np.array(3, np.int64),
      'mtp.on': np.array([True, False]),
    }
  return {
    name.replace('model.', 'backbone.', 1) if backbone else name: value
    for name, value in tensors.items()
  }


def write(
  directory: pathlib.Path,
  config: ModelConfig,
  tensors: dict[str, np.ndarray],
  shards: int = 1,
  seed: int = 0,
) -> pathlib.Path:
  """A checkpoint whose tensors lie in `shards` files, at random."""
  directory.mkdir()
  fields = hf_checkpoint.config_to_hf(config, eos_token_id=2, pad_token_id=0)
  fields['torch_dtype'] = str(next(iter(tensors.values())).dtype)
  (directory / 'config.json').write_text(json.dumps(fields))
  for name, data in CARRIED.items():
    (directory / name).write_bytes(data)
  if shards == 1:
    save_file(tensors, directory / 'model.safetensors', metadata={'format': 'pt', 'by': 'test'})
    return directory
  where = np.random.default_rng(seed).permutation(np.arange(len(tensors)) % shards)
  weight_map = {
    name: f'model-{i + 1:05}-of-{shards:05}.safetensors'
    for name, i in zip(tensors, where, strict=False)
  }
  for file in set(weight_map.values()):
    save_file(
      {name: tensors[name] for name in tensors if weight_map[name] == file},
      directory / file,
      metadata={'format': 'pt'},
    )
  (directory / 'model.safetensors.index.json').write_text(
    json.dumps({'metadata': {}, 'weight_map': weight_map})
  )
  return directory


def read(directory: pathlib.Path) -> dict[str, tuple]:
  """{tensor: (dtype, shape, bytes)} of every safetensors file, read with the safetensors library
  alone; the index must agree.
  """
  found, where = {}, {}
  for path in sorted(directory.glob('*.safetensors')):
    for name, value in load_file(path).items():
      assert name not in found
      found[name], where[name] = (value.dtype, value.shape, value.tobytes()), path.name
  index = directory / 'model.safetensors.index.json'
  if index.exists():
    assert json.loads(index.read_text())['weight_map'] == where
  else:
    assert set(where.values()) == {'model.safetensors'}
  return found
