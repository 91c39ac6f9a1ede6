"""The self-hosted dispatch endpoint (extra `hub`)."""
