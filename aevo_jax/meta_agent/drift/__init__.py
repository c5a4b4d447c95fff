"""Drift.

Whether the dev score still tracks the external score, and what follows for the policy.
"""
