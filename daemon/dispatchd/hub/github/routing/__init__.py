"""From an event to the jobs that it asks for. Pure."""
