"""aevo_jax: a declarative JAX experiment framework that post-trains a language model by itself.

People write gin, workers train, a meta agent rewrites the search policy, and a frozen constitution
decides what counts as improvement. Importing this package imports nothing else: no jax, no gin, no
flags.
"""

__version__ = '0.1.0'
