"""Rule-induction puzzles: six families, procedurally generated, split by hidden rule, and the
verifier that scores answers.

`item` holds the data types, one file per family holds a generator, `mixture` draws reproducible
streams of items from a split, `splits` decides which split a rule belongs to, `own_data` reads
tasks of one's own, and `verify` extracts and compares answers. Nothing here needs JAX.
"""
