"""Drift: whether the dev score still tracks the external score, and what follows for the policy.

`calibration` fixes thresholds before a round, `reversal` gives the verdicts after it, `trust` says
what they change. `proxies` does the same without an external target, where dev and the probes judge
each other. `score_table` reads rounds of scores from a CSV file.
"""
