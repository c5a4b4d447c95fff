"""Generation: in this process, jitted, and at a vLLM server."""
