"""Migrations from the databases of older releases to this one; forward only, one file for each."""
