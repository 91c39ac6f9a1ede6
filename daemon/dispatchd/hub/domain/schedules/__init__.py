"""Schedules: the due times of a cron expression (`plan.py`), and which run is to be made a job now (`progress.py`); pure."""
