"""Stands before the real one on PYTHONPATH: who imports rich where it is found goes on without it."""

message = "tests leave it out of processes"
raise ImportError(message)
