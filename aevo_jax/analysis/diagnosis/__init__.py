"""The diagnosis of sharding rules: what devices send and compute that no rule asks for.

`expected` says what rules ask for, from shapes alone; `dataflow` says of a partitioned program's
arrays which parameters they come from; `unexpected` sets one against the other.
"""
