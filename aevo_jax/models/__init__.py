"""Nemotron-H, Qwen3 and Llama in Flax NNX: residual stacks of mixers.

A block is mamba (M), attention (*), MLP (-) or mixture of experts (E).

Shapes stand in signatures, in words (jaxtyping). Variables and einsums use one letter for each
dimension: b batch, t and s time (query, source), d model width, v vocabulary, n heads, k key/value
heads, h attention head width, p mamba head width, g mamba groups, r mamba state size, z chunk,
e experts, f MLP width. `x_btd` is an array [b, t, d].
"""
