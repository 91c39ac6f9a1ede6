"""The agent: pulls jobs from an endpoint, runs them on this machine, and reports their ends. Wired in `wiring.py`."""
