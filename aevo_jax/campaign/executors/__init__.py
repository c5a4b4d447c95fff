"""Executors start the processes of a campaign.

Forked workers, servers that stay, and the precompiler.
"""
