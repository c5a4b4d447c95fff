"""The machine under a campaign: what a trial may take of it, and whose fault a failure is.

A trial has an allowance of disk and memory. One that takes more fails for it. Where the machine
cannot give a trial its allowance, the fault is the machine's: the campaign pauses, and no attempt
is spent. What a worker says of its own end starts an examination and decides nothing.
"""
