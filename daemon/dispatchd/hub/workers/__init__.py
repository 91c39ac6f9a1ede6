"""Loops of the hub: expiry and retention, and news between hub processes."""
