"""vLLM, spoken to over HTTP: a server of ours in an environment of its own, or one that runs.

It takes the weights that JAX trains, and is believed only as far as it was checked.
"""
