"""Concurrency: threads that may be left behind, a last resort for a stop, and the fence around bugs."""
