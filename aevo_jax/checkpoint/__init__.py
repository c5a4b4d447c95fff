"""Weights on disk that can be trusted: Orbax stores them, a manifest of digests confirms them.

`digest` names tensors (a logical digest, independent of files) and stored copies (a digest per
file); `orbax_io` saves durably and restores only what its manifest confirms. Nothing here is
pickled.
"""
