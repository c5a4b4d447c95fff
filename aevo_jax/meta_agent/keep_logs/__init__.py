"""Logs of loops that keep a change if it scores better: which of the gains are more than luck.

`keep_log` reads the table, `seed_noise` estimates the noise between seeds, `kept_gains` judges, and
`wording` writes it down.
"""
