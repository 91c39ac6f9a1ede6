"""Queue of the hub: admission of jobs, the jobs of schedules, and the start after a restore."""
