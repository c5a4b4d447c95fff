"""Losses, and the advantages and weights that they are given.

A loss maps log-probabilities, token by token, and a `batch.Batch` to a scalar that adds up over
rows, and to metrics as `WeightedSum`s. Its config is one frozen dataclass, handed whole.
"""
