"""Exchange between the agent and a command: environment and brief in, events and outputs out. Pure."""
