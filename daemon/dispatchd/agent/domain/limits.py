"""Limits of runs: what a workflow sets itself, `[runs]` sets for all of them, or this page for all machines."""

from typing import Final

from attrs import frozen

from dispatchd.agent.domain.exit_table import DEFAULT_START_RETRIES
from dispatchd.agent.domain.isolation import Isolation
from dispatchd.protocol.outcome import Resources

DEFAULT_PIDS_MAX: Final = 4096
"""Default limit of an attempt's processes and threads (count): far more than builds need."""


@frozen(kw_only=True)
class RunLimits:
    """Limits of a workflow's runs, by their keys in the configuration; times in seconds, 0 where there is none.

    `max_retries` is the number of attempts after the first; only retry-safe failures use it. None is the default of
    the workflow's contract. `start_retries` is the number of starts of an attempt after the first; failures before its
    command could begin use it. `output_max_mib` is the size of its output that is kept, 0 for all.
    `artifacts_max_mib` is the size of the artifacts of an attempt that are sent to the endpoint.
    """

    kill_grace_s: float = 10.0
    """Time between SIGTERM and SIGKILL."""
    max_duration_s: float = 3600.0
    inactivity_s: float = 600.0
    queue_timeout_s: float = 0.0
    max_retries: int | None = None
    start_retries: int = DEFAULT_START_RETRIES
    output_max_mib: int = 64
    artifacts_max_mib: int = 1024
    isolation: Isolation = Isolation.SANDBOX
    memory_max_mib: int = 0
    pids_max: int = DEFAULT_PIDS_MAX
    cpu_weight: int = 0

    @property
    def output_max_bytes(self) -> int:
        """Size of an attempt's output that is kept (bytes); 0 for all."""
        return self.output_max_mib << 20

    @property
    def artifacts_max_bytes(self) -> int:
        """Size of the artifacts of an attempt that are sent to the endpoint (bytes)."""
        return self.artifacts_max_mib << 20

    @property
    def resources(self) -> Resources:
        """Limits of one attempt with all its processes."""
        return Resources(
            memory_bytes=self.memory_max_mib << 20,
            pids=self.pids_max,
            cpu_weight=self.cpu_weight,
        )
