"""Judgements by numbered rules, and their form for machines: what every suite of rules has in common. Pure."""
