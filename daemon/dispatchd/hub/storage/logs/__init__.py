"""Logs of attempts, as files beside the database: stored by machines' chunks, read by people, backed up with the rows."""
