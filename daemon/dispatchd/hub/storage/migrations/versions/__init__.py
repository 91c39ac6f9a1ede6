"""Migrations, in the order of their numbers. A released migration never changes."""
