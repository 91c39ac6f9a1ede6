"""GitHub in and out: webhooks or polling in, check runs out (docs/github.md)."""
