"""What many tasks at a time need: threads that may be left behind, a last resort, and a fence around bugs."""
