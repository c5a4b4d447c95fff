"""The substrate: what every trial starts from and no trial can change.

`store` keeps directories (base checkpoints, data recipes) under the digest of their content and
hands out read-only forks; `code_digest` names the code tree; `manifest` is the committed list of
both, against which a machine's actual files are measured before a campaign starts.
"""
