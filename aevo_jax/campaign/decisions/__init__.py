"""The decisions: what follows from the ledger's records alone, as pure functions of the state.

`state` folds the records. `decisions`, `proxy_target`, `round_evidence` and `next_policy` read the
state. The controller, the audit and simulations call the same functions.
"""
