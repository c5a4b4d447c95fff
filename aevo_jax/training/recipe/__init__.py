"""The recipe.

Its dataclasses and checks, its fingerprint, its token budget and its memory estimate.
"""
