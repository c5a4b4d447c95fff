"""A language model as an agent.

`agent` is the agent, `messages` writes its questions, `reply` reads its answers, `dialogue` asks
until an answer can be used, `chat_client` sends one request, `settings` is the `llm` section.
"""
