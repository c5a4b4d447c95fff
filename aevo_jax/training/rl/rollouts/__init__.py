"""Rollouts: episodes that the policy generates, their rewards, and what is kept of them.

Nothing here computes a gradient. `environment` makes episodes, `generation` plays them on an
engine, `rewards` judges them, `rollouts` lays them out as arrays, `pairs` picks preferences, and
`rollout_log` writes and reads them.
"""
