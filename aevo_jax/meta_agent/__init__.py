"""From evidence to the next policy. The meta agent sees nothing but the evidence, and writes
nothing but overlays and reasons.
"""
