"""Kernels that differ by platform, and the choice among them."""
