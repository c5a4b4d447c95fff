"""Trusted scoring: what is asked, how answers are judged, and the two servers that do it.

Scores follow from weights and items alone. Nothing here reads what a worker says of its weights.
"""
