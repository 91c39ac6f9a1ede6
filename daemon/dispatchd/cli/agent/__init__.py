"""Commands for the agent on this machine."""
