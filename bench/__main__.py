"""Run every benchmark: `python -m bench`."""

from typing import Final

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

MODULES: Final = (
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
)

if __name__ == "__main__":
    for module in MODULES:
        module.main()
