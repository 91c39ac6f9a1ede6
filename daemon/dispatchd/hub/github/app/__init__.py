"""The hub's GitHub App: made from a manifest, and checked against the configuration."""
