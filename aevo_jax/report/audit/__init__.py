"""The audit recomputes what a run claims from its ledger and files."""
