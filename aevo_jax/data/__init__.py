"""Data: from items to batches, by tokenizer, chat format and a Grain pipeline with packing."""
