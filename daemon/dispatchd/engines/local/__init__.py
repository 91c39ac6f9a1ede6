"""Runs as child processes of this machine."""
