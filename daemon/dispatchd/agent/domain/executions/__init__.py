"""Executions of attempts, wherever they are. Pure."""
