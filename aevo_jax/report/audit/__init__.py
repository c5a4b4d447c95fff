"""The audit: a run's claims, recomputed from its ledger and the files beside it.

Every file but three holds the checks on one subject. `findings` has what a check returns or raises,
`audited_run` the run that all of them read, `checks` their table and the function that runs them.
A check is a function of the audited run. It adds problems to the run, returns a line of detail, and
derives its expectations from the ledger rather than from another file, so that one changed file
fails one check.
"""
