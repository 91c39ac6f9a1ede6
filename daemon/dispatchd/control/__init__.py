"""Control socket, through which people and tools on this machine control the daemon."""
