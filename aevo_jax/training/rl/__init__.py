"""Reinforcement learning on verifiable rewards.

A step has rollouts, a gate on their log-probabilities, advantages and one accumulated update for
each minibatch. Every number of it is in the log. `rollouts` makes and keeps the rollouts; the
modules here train on them. The settings are sections of the recipe (`recipe.rl_settings`).
"""
