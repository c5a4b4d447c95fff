"""A family refuses what its config.json could not say, and each family holds what the protocol asks
for.
"""

import pytest

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.families import registry

QWEN3 = {
  'family': 'qwen3',
  'pattern': '*-',
  'rope_theta': 1e4,
  'qk_norm': True,
  'mlp_activation': 'swiglu',
}


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'rope_theta': 1e4}, r"'nemotron_h' has no words.*rope_theta = 10000\.0 \(only 0\.0\)"),
    ({'qk_norm': True}, r'qk_norm = True'),
    ({'mlp_activation': 'swiglu'}, r"mlp_activation = 'swiglu' \(only 'relu2'\)"),
    (
      {'pattern': 'ME', 'router': 'softmax', 'moe_shared_expert_intermediate_size': 0},
      (
        r"router = 'softmax' \(only 'sigmoid'\), moe_shared_expert_intermediate_size = 0 "
        r'\(only more than 0\)'
      ),
    ),
    ({'tie_word_embeddings': True}, r'tie_word_embeddings = True'),
    (QWEN3 | {'pattern': 'M-*-'}, r"'qwen3' has no words.*pattern = 'M-\*-'"),
    (QWEN3 | {'pattern': '*-*'}, r"pattern = '\*-\*'"),
    (QWEN3 | {'rope_theta': 0.0}, r'rope_theta = 0\.0 \(only more than 0\)'),
    (QWEN3 | {'qk_norm': False}, r'qk_norm = False \(only True\)'),
    (
      QWEN3 | {'pattern': '*E'},
      (
        r"router = 'sigmoid' \(only 'softmax'\), moe_shared_expert_intermediate_size = 128 "
        r'\(only 0\)'
      ),
    ),
    (
      QWEN3 | {'family': 'bert'},
      r"model\.family must be one of \('nemotron_h', .*, got 'bert'",
    ),
    (QWEN3 | {'head_dim': 31}, r'model\.rope_theta.*head_dim \(31\)'),
    ({'router': 'argmax'}, r"model\.router must be one of .*'argmax'"),
    ({'mlp_activation': 'gelu'}, r"model\.mlp_activation must be one of .*'gelu'"),
  ],
)
def test_what_a_family_has_no_words_for_is_refused_by_name(fields, message):
  with pytest.raises(ValueError, match=message):
    ModelConfig(**fields)


def test_options_of_blocks_that_are_not_there_do_not_matter():
  assert not registry.refusals(vars(ModelConfig(**QWEN3)))
  assert not registry.refusals(vars(ModelConfig(pattern='M-', qk_norm=True)))


@pytest.mark.parametrize('name', registry.FAMILIES)
def test_a_model_type_belongs_to_its_family(name):
  assert {
    registry.of_model_type(model_type) for model_type in registry.FAMILIES[name].model_types
  } == {name}
