"""The recipe: its sections, and what follows from them before anything is trained.

Most sections are in `recipe`, those of reinforcement learning in `rl_settings`. What follows is
where items come from (`task_source`), the steps that a budget allows (`token_budget`), what a
recipe does (`fingerprint`), which compiled program it needs (`program_key`), and the memory that it
takes (`memory_estimate`).
"""
