"""Durable facts: tracked jobs, and the folders of their runs."""
