"""Health of the agent: status, readiness, metrics, watchdog and traces, all read from the loops."""
