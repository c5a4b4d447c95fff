"""A training step before it runs: what it must compute, and what a compiler makes of it.

The devices it is compiled for need not be there.
"""
