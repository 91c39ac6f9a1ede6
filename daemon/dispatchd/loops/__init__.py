"""The imperative shell: one file for each loop, and the only writer of phases."""
