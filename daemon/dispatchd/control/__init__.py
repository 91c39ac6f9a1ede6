"""The socket through which people and tools on this machine steer the daemon."""
