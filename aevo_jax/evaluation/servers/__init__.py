"""The two trusted server processes, evaluator and arbiter, and both halves of their JSON protocol."""
