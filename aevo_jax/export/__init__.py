"""What leaves: any result of ours as a directory that transformers, PEFT and vLLM load.

results   what a path holds: a base, a run, a checkpoint of one, a campaign, a trial, an adapter
trained   weights that were trained, in the form of their base, and their adapter beside them
sealed    the winner of a campaign, and any sealed trial of one
written   a result, whatever it is, as one new directory
"""
