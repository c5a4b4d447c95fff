"""Comparisons of runs: whether one recipe's scores are higher than another's."""
