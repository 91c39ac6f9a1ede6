"""Engines of third parties: found by their entry points, with their settings, behind a guard for whatever they raise."""
