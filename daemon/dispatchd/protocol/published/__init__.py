"""Contracts as they are published: the files of `contracts/`, found in an installed package and in a source tree."""
