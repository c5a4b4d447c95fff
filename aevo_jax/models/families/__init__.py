"""Families of models: how Hugging Face spells the tensors and config.json of each.

A module for each family declares a `Family`; `registry` gathers them. They know our models as
dictionaries of ModelConfig's fields and import nothing of the decoder.
"""
