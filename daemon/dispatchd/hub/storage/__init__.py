"""The hub's storage.

Data goes one way: stores call the database, which calls nobody.
"""
