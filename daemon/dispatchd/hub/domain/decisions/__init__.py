"""Decisions of people about parked jobs: the record (`decision.py`), and who may make one when (`rules.py`); pure."""
