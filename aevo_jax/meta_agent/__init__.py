"""From evidence to the next policy.

An agent sees evidence and nothing else, and writes overlays and reasons and nothing else.
`evidence`, with its `scores`, and `policy` are its input and output, `agent` its protocol,
`registry` the list of all. `agents` holds those that need no network, `llm` the language model,
`drift` whether dev still tracks the external score. `anonymize` hides names, `promotion_rule` is
the rule for all; the other modules are the statistical agent's parts.
"""
