"""Logs of runs on their way to the endpoint: read through the redactor, cut into chunks, sent while somebody watches or at the end."""
