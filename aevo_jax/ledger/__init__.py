"""The campaign's memory: an append-only, hash-chained file of events, one JSON object a line.

`records` defines an event and checks a chain of them. `append` owns the file on disk (one writer,
durable appends, recovery after a crash) and reads it for reports and audits. State is never stored
here: it is a fold over these records, so resuming a campaign is reading them again.
"""
