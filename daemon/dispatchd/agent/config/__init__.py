"""The agent's configuration: a TOML file, checked as a whole, to typed settings."""
