"""The setup: what a campaign is given, checked and prepared with before its first record.

`settings` is what an operator may bind. `validation` says which choices go together, `preflight`
what the machine lacks, `dead_axes` which axes the tasks make meaningless, `estimate` and `dry_run`
what a campaign takes, and `setup` fills the run directory. None writes to the ledger.
"""
