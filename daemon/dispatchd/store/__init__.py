"""Durable data: tracked jobs, and the folders of their runs."""
