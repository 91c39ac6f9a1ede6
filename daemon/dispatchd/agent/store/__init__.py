"""Durable facts of the agent: tracked jobs, and the folders of their runs."""
