"""Queue of the hub: pauses, bindings of machines, and the start after a restore."""
