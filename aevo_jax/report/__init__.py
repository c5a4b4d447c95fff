"""What a person sees: live progress, the final table, the HTML report, and the audit behind it.

`run_view.RunView` is the run that all of them read; rows and results are plain values. Only `page`
draws, and only `audit` computes anything again.
"""
