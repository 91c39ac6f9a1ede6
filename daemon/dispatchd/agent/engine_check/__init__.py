"""`dispatchd engine check`: starts attempts on an engine as a daemon does, kills it in between, and judges by numbered rules."""
