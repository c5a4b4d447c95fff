"""The two trusted server processes, evaluator and arbiter, and the JSON protocol they speak."""
