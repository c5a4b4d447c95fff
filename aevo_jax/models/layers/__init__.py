"""Layers: attention, Mamba-2, mixture of experts, MLP, and the parts they are made of."""
