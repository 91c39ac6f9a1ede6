"""Workflows that a machine can run within their limits, and with their isolation. Pure.

If a workflow sets a limit itself and the machine can't enforce it, the machine doesn't take its jobs. If the limit
comes from `[runs]`, or is a weight, there is only a warning.
"""

from collections.abc import Callable, Mapping
from typing import Final

from attrs import field, frozen

from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.limits import DEFAULT_PIDS_MAX
from dispatchd.agent.domain.workflow import Workflow

_KEYS: Final = {
    "memory": "memory_max_mib",
    "pids": "pids_max",
    "cpu": "cpu_weight",
}
"""Key of the configuration that needs a controller, by controller (cgroup v2)."""

_WEIGHT: Final = "cpu"
"""Controller whose key is a share, not a limit."""

TO_DO: Final = "run the daemon by a unit with Delegate=yes and DelegateSubgroup= (systemd 254 or newer)"


@frozen(kw_only=True)
class Machine:
    """Abilities of a machine: limits that it can set (controllers of cgroup v2), and isolations that it can't have."""

    controllers: tuple[str, ...] = ()
    blocked_reason: Callable[[Isolation], str] = field(default=lambda _: "")
    """Returns the reason why no run can have an isolation there, or an empty string."""


def missing_limits(workflow: Workflow, machine: Machine) -> str:
    """Return which of its own limits a workflow can't have on a machine, in words; empty if it can have all."""
    missing = [
        _KEYS[controller]
        for controller in workflow.own_limits
        if controller not in machine.controllers and controller != _WEIGHT
    ]
    keys = " and ".join(missing)
    return f"{keys} can't be kept on this machine: {TO_DO}" if missing else ""


def unfit(workflows: Mapping[str, Workflow], machine: Machine) -> dict[str, str]:
    """Return the workflows whose isolation or own limits a machine can't enforce, each with the reason."""
    reasons: dict[str, str] = {}
    for name, workflow in sorted(workflows.items()):
        blocked_reason = machine.blocked_reason(workflow.isolation)
        if blocked_reason:
            reasons[name] = f'isolation = "{workflow.isolation}": {blocked_reason}'
        elif limits := missing_limits(workflow, machine):
            reasons[name] = limits
    return reasons


def _requested(pids: int) -> int:
    # The default is no request: it is enforced where it can be.
    return 0 if pids == DEFAULT_PIDS_MAX else pids


def warnings(workflows: Mapping[str, Workflow], machine: Machine) -> list[str]:
    """Return the parts of isolation and limits that aren't enforced, each in one sentence."""
    refused = [
        f"workflows.{name} takes no jobs: {why}"
        for name, why in unfit(workflows, machine).items()
    ]
    needed = {
        controller
        for workflow in workflows.values()
        for controller, limit in (
            ("memory", workflow.resources.memory_bytes),
            ("pids", _requested(workflow.resources.pids)),
            ("cpu", workflow.resources.cpu_weight),
        )
        if limit and (controller not in workflow.own_limits or controller == _WEIGHT)
    }
    missing = [
        _KEYS[controller]
        for controller in _KEYS
        if controller in needed - {*machine.controllers}
    ]
    if missing:
        keys = " and ".join(missing)
        refused.append(f"runs continue without {keys}, which can't be kept: {TO_DO}")
    return refused
