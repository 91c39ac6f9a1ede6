"""Artifacts of jobs: rows say which files an attempt has left, the bytes are files beside the database, by their hash."""
