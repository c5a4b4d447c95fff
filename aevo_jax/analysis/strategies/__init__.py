"""Sharding strategies of one model: which meshes there are, what they send, how long steps take."""
