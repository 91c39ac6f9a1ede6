"""Decisions of the hub, without storage, clock or HTTP.

Data goes one way: a job and an event come in, the changed job goes out.
"""
