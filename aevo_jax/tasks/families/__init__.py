"""Puzzle families, one module each."""
