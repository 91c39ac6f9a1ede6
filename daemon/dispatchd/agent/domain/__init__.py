"""Pure rules of the agent: values in, values out; no I/O, clock, randomness or await."""
