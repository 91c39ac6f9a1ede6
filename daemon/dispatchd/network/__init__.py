"""The way out over HTTP: proxies, trust, certificates, headers."""
