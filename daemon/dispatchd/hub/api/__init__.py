"""The hub's HTTP API: the wire's documents in and out, for machines, programs and the hub's owner."""
