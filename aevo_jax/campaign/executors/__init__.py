"""Executors run the attempts at trials, and the precompiler what they share."""
