"""What a person sees: live progress, the final table, the HTML report, and the audit that
recomputes it all.
"""
