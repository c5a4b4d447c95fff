"""Families of models: how Hugging Face spells the tensors and config.json of each.

A family also says which of the decoder's options its config.json can express. It is a module that
knows our models as dictionaries of ModelConfig's fields, imports nothing of the decoder and holds

  MODEL_TYPES: its names in config.json.
  PATTERN: a regular expression for its patterns, and the same in words.
  FIXED: {blocks: {field: value}}: where a pattern has one of the blocks ('' is any pattern), that
    field of ModelConfig must have that value.
  NEEDED: {blocks: fields}: where a pattern has one of the blocks, those fields may not be 0.
  EXPERTS_APART: whether experts are written one by one instead of stacked.
  hf_name(name): the stored name of our parameter, experts stacked.
  config_to_hf(values): the fields of config.json, from the fields of ModelConfig.
  config_from_hf(fields): the fields of ModelConfig, from those of config.json; ValueError by name
    for what is lacking, or what the decoder does not compute.
"""
