"""Commands for a hub, and for the machine where it runs."""
