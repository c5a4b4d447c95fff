"""The campaign: rounds of trials in confined workers, driven by one controller over the ledger.

`setup` is what a campaign is given, and `decisions` what follows from the ledger. `trial` is what a
worker gets and does, `executors` run it, `sandbox` stands between a worker and everything outside
its directory. The modules here act on all of them: they start attempts, have weights scored, wait,
and append records.
"""
