"""Tracking: the only writer of phases, and what all loops share. Loops see the outside through `ports.py`."""
