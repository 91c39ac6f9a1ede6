"""Real parts for tests: processes, servers on loopback, folders."""
