"""Loops of the agent: jobs come in by `pull.py`, go to `runs/`, and leave by `report.py`."""
