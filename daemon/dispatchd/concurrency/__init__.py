"""Concurrency: threads that may be left behind, a last resort for a stop, the bug fence, and back-off state."""
