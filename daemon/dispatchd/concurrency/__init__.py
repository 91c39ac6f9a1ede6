"""What many tasks at a time need: a fence around bugs."""
