"""The agent: pulls jobs from an endpoint, runs them on this machine, and reports their ends. Opened in `serve.py`, wired in `wiring.py`."""
