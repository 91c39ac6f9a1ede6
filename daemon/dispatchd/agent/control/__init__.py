"""The control socket: people and tools on this machine ask the agent, and steer it."""
