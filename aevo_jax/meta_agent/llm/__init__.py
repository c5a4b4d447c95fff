"""The language-model agent: chat client, messages, replies, and the agent itself."""
