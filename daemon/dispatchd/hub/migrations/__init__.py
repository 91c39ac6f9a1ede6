"""How a database of an older release becomes one of this release; forward only, one file for each step."""
