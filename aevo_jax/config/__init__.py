"""Configuration: text becomes checked statements, and statements become frozen dataclasses.

`statements` parses literal gin without executing anything, for text an agent wrote (`untrusted`, in
a child process) and for the constitution. `search_space` lists which parameters may be bound, and
to what. `configurables` registers frozen dataclasses by name and resolves each once; `constraints`
checks the ranges and choices on their fields. `loading` reads the gin files that people write and
answers their mistakes with the nearest right name. `sections` and `inference` are the dataclasses
of the constitution. `flags` gives every launch application the same `--gin_file`, `--gin_bindings`
and `--gin.NAME=value`. Nothing here imports another part of the project.
"""
