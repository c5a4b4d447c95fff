"""Meta agents that need no network: each writes the next policy from the evidence."""
