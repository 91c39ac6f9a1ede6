"""GitHub's REST API: credentials, calls within limits, typed answers."""
