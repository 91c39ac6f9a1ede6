"""Engines to which a start is submitted under an id of ours: recorded, then handed to an `Executor` of `port.py`."""
