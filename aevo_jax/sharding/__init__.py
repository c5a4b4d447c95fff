"""Sharding: named meshes, and rules from logical axes to mesh axes, both written in gin.

Nothing here knows a model: arrays come with the logical axes of their dimensions.
"""
