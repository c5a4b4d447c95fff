"""Generation: requests of token ids in, completions of token ids and log-probabilities out.

`protocol` says what every engine takes and gives back. `engine` runs in this process, `vllm` speaks
to a server, and `sampler` is the plain loop by which scores are computed.
"""
