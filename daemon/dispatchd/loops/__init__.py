"""The imperative shell: one file for each loop, and the one writer of phases."""
