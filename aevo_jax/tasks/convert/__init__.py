"""Turns data sets as others write them into tasks of one's own, for `aevo tasks convert`.

`records` reads JSON values with their places, `conversion` makes tasks of them by `tasks.shapes`,
which knows what their fields mean.
"""
