"""Artifacts that are owed to the endpoint: found in a workspace, copied out of the run's reach, kept until they are sent."""
