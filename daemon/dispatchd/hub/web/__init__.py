"""The hub's web page: people see jobs and machines, and act on them."""
