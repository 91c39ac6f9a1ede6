"""Identity of this machine at its endpoint, from a license: found, activated, verified, refreshed."""
