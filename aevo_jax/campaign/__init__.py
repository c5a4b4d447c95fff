"""The campaign: rounds of trials in confined workers, driven by one controller over the ledger.

`trial` is what a worker gets and does, `executors` run it, `sandbox` stands between a worker and
everything outside its directory.
"""
