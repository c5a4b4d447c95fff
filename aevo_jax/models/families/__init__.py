"""Families of models: how each spells its tensors and its config.json in Hugging Face, and which of
the decoder's options it has words for.

A family is a module that imports nothing of the decoder and holds

  MODEL_TYPES: its names in config.json.
  PATTERN: a regular expression for its patterns, and the same in words.
  FIXED: {blocks: {field: value}}: where a pattern has one of the blocks ('' is any pattern), that
    field of ModelConfig must have that value.
  NEEDED: {blocks: fields}: where a pattern has one of the blocks, those fields may not be 0.
  EXPERTS_APART: whether experts are written one by one instead of stacked.
  hf_name(name): the stored name of our parameter, experts stacked.
  config_to_hf(config): the fields of config.json.
  config_from_hf(fields): the fields of ModelConfig; ValueError by name for what is lacking, or what
    the decoder does not compute.
"""
