"""Engines of SQLAlchemy for the two kinds of database: their connections, and the one writer of SQLite.

`make.py` makes them; `Database` runs each change and each read on them.
"""
