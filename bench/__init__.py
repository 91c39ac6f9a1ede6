"""Benchmarks: each prints figures beside a reference that was measured in the same run."""
