"""Which workflows a machine can run within their limits. Pure.

A limit that a workflow sets itself, and that can't be kept, keeps its jobs away from this machine. One that comes
from `[runs]`, or a weight, is a warning.
"""

from collections.abc import Mapping
from typing import Final

from dispatchd.domain.workflow import Workflow

_KEYS: Final = {
    "memory": "memory_max_mib",
    "pids": "pids_max",
    "cpu": "cpu_weight",
}
"""Controller of cgroup v2 to the key of the configuration that needs it."""

_WEIGHT: Final = "cpu"
"""A share, not a limit."""

TO_DO: Final = "run the daemon by a unit with Delegate=yes and DelegateSubgroup= (systemd 254 or newer)"


def unfit(
    workflows: Mapping[str, Workflow], controllers: tuple[str, ...]
) -> dict[str, str]:
    """Return the workflows whose own limits this machine can't keep, and why."""
    found: dict[str, str] = {}
    for name, workflow in sorted(workflows.items()):
        missing = [
            _KEYS[each]
            for each in workflow.own_limits
            if each not in controllers and each != _WEIGHT
        ]
        if missing:
            keys = " and ".join(missing)
            found[name] = f"{keys} can't be kept on this machine: {TO_DO}"
    return found


def warnings(
    workflows: Mapping[str, Workflow], controllers: tuple[str, ...]
) -> list[str]:
    """Return what of the limits isn't kept, each in one sentence."""
    refused = [
        f"workflows.{name} takes no jobs: {why}"
        for name, why in unfit(workflows, controllers).items()
    ]
    wanted = {
        controller
        for workflow in workflows.values()
        for controller, limit in (
            ("memory", workflow.resources.memory_bytes),
            ("pids", workflow.resources.pids),
            ("cpu", workflow.resources.cpu_weight),
        )
        if limit and (controller not in workflow.own_limits or controller == _WEIGHT)
    }
    missing = [_KEYS[each] for each in _KEYS if each in wanted - {*controllers}]
    if missing:
        keys = " and ".join(missing)
        refused.append(f"runs go on without {keys}, which can't be kept: {TO_DO}")
    return refused
