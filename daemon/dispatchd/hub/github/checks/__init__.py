"""Check runs at GitHub: from a job's state to what is published."""
