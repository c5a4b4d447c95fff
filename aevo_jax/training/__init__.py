"""Training: one jitted step, a loop readable in one sitting, and the recipe that binds them.

`post_train` runs a recipe: it sets up the model (`model_setup`), opens batches, and calls
`train_loop`, which calls the pure `train_step`. `losses` and `rl` hold what they optimize, `tokens`
the statistics that losses read, and `recipe` what a trial may choose.
"""
