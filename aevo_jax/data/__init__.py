"""From items to batches: tokenizer, chat format, Grain pipeline with packing."""
