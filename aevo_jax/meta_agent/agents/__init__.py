"""Agents that need no network.

Each module holds one class with a `decide` method, which writes the next policy from the evidence.
"""
