"""Logs of loops that keep a change if it scores better: which of the gains are more than luck.

`keep_log` reads the table, `seed_noise` estimates the noise between seeds, `lucky_tries` computes
what noise alone does, `kept_gains` judges, and `wording` writes it down.
"""
