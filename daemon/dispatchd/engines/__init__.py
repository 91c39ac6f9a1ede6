"""Executors of runs."""
