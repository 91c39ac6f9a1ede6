"""Run every benchmark: `python -m bench`."""

from bench import idle, latency, startup, store, throughput

for module in (store, startup, latency, throughput, idle):
    module.main()
