"""Sharding: named meshes, and rules from logical axes to mesh axes, both written in gin."""
