"""The two trusted server processes, evaluator and arbiter, and both sides of their protocol."""
