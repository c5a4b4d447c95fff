"""The campaign: rounds of trials in confined worker processes, driven by one controller over the
ledger.

`sandbox` and `syscall_filter` are what stands between a worker and everything that is not its own
directory.
"""
