"""Statistics over numpy and scipy: functions of numbers and arrays, which import nothing of ours.

Each file holds one method: intervals (of a proportion, of a difference), the permutation test, rank
tests with their e-values, the slope test, the concordance of two scores, variances, Student's t
test of a mean gain, and pass@k. Every function is pure; those that draw take a seed.
"""
