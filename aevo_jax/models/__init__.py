"""Nemotron-H and Qwen3 in Flax NNX: a residual stack of mamba (M), attention (*), MLP (-) and
mixture-of-experts (E) blocks.

Dimension legend, used in every variable name and einsum: b batch, t and s time (query, source), c
chunk, d model width, v vocabulary, n heads, k key/value heads, h attention head width, p mamba head
width, g mamba groups, r mamba state size, i inner width, f MLP width.
"""
