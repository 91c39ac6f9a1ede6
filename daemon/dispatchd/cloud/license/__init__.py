"""Who this machine is at its endpoint, from a license: found, activated, verified, refreshed."""
