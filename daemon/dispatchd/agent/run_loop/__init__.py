"""Runs: a tracked job gets a slot and a process; its end becomes a verdict."""
