"""Run every benchmark: `python -m bench`."""

from bench import help as help_
from bench import idle, latency, redaction, startup, store, throughput

for module in (store, redaction, help_, startup, latency, throughput, idle):
    module.main()
