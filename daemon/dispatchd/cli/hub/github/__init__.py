"""Commands of the hub about GitHub: its App, deliveries, and what an event would start."""
