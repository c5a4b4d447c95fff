"""The page report.html: a template, the figures in it, and the function that renders both.

`plots` draws points and bars with matplotlib, `figures` collects them from a run, `html` renders.
"""
