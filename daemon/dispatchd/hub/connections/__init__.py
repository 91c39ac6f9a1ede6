"""Limits for strangers: connections, time and places. Nothing in here knows jobs or machines.

Data goes one way: a socket comes in (`accept`), its bytes become requests (`protocol`), requests go to the routes.
"""
