"""The hub's configuration: `hub.toml`, checked as a whole, to typed settings."""
