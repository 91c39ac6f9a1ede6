"""The queue of the hub: what goes out of it, and when nothing does."""
