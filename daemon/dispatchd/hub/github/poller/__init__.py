"""Deliveries fetched from GitHub, where it can't reach the hub, or missed it."""
