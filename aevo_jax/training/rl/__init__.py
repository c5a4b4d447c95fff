"""Reinforcement learning on verifiable rewards.

A step has rollouts, a gate on their log-probabilities, advantages and one accumulated update for
each minibatch. Every number of it is in the log.
"""
