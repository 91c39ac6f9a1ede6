"""Storage of the hub.

Data goes one way: stores call the database, which calls no other part.
"""
