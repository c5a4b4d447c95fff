"""Reinforcement learning on verifiable rewards: rollouts, their gate, advantages, one accumulated
update a minibatch, and every number of it in the log.
"""
