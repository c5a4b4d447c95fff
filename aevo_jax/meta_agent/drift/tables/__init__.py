"""Tables of candidates that others made: read, divided into rounds, judged, and told in words."""
