"""Statistics over numpy and scipy.

Intervals, permutation, rank and slope tests. Imports nothing of ours.
"""
