"""Events come in: a webhook is verified, stored with its jobs in one transaction, and resolved."""
