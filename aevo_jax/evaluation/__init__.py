"""Trusted scoring: item sets, generation and verification, intervals, and the two servers that do
it (evaluator, arbiter).
"""
