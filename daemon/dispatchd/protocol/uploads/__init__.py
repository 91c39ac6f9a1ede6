"""Uploads of machines beside their reports: artifacts, and the form in which bytes travel in JSON; pure."""
