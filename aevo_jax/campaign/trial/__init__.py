"""A trial: its spec, the gate its recipe passes, the worker that runs it, and its seal."""
