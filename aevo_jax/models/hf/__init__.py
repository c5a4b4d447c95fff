"""Checkpoints and adapters in the formats of Hugging Face and PEFT."""
