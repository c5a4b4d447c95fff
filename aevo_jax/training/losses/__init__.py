"""Losses: each maps logits and a batch to a WeightedSum."""
