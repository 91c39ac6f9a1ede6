"""What many tasks at a time need: threads that may be left behind, and a fence around bugs."""
