"""Webhooks of senders beside GitHub: their forms (`senders.py`), and what a delivery of one asks for (`delivery.py`); pure."""
