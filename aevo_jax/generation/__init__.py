"""Generation with the in-process, jitted sampler."""
