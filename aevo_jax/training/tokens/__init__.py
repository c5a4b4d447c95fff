"""Statistics of tokens, and their masked means: what losses read and what metrics report.

`token_stats` computes them from logits, `token_logprobs` chunk by chunk from a model, and `masked`
merges their sums over microbatches and devices.
"""
