"""Engines: they execute the commands of runs. A folder for each."""
