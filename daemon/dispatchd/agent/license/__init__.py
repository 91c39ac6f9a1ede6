"""The license of this machine: found, activated, verified and refreshed."""
