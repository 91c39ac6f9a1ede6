"""The hub's web page: what a person sees of jobs and machines, and does about them."""
