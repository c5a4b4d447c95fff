"""Rule-induction puzzles in six families, tasks of one's own, and the verifiers of both.

Every item has a hidden rule or a known answer, and a split that follows from a hash of its key.
Nothing here needs JAX.
"""
