"""Layers: attention, Mamba-2, mixture of experts, MLP, and the parts they are made of.

Every parameter carries `logical_axes`, the names that sharding rules map to mesh axes.
"""
