"""Run every benchmark: `python -m bench`."""

from bench import help as help_
from bench import (
    hub,
    idle,
    latency,
    polls,
    redaction,
    startup,
    store,
    throughput,
    walls,
    webhooks,
)

for module in (
    store,
    redaction,
    help_,
    startup,
    walls,
    latency,
    throughput,
    idle,
    hub,
    polls,
    webhooks,
):
    module.main()
