"""Run every benchmark: `python -m bench`."""

from bench import idle, latency, redaction, startup, store, throughput

for module in (store, redaction, startup, latency, throughput, idle):
    module.main()
