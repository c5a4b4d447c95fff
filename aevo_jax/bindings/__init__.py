"""Which command reads which binding, and the refusal of those that have no effect."""
