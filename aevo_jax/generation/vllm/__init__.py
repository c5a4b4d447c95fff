"""vLLM, spoken to over HTTP: a server of ours in its own environment or one that runs, given the
weights that JAX trains, and believed only as far as it was checked.
"""
