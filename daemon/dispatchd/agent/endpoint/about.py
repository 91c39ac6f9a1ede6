"""Facts about this machine that go out with each pull: its workflows, and what people see of it at the endpoint."""

import os
from typing import Final

from dispatchd import __version__
from dispatchd.agent.config.load import Config
from dispatchd.agent.domain.runnable_workflows import Machine, unfit
from dispatchd.protocol.job import Json

_MOST_SLOTS: Final = 1_000_000
"""Most slots that a pull may name (count; contracts/schemas/pull-request.schema.json)."""

_MOST_BYTES: Final = 2**53 - 1
"""Most free space that a pull may name (bytes; the same schema)."""


def declared(config: Config, machine: Machine) -> list[str] | None:
    """Return the workflows to declare; None to take any job.

    Jobs that this machine can't run well are left to others, even if the owner doesn't want the list to be sent.
    """
    workflows = config.workflows
    unfit_here = unfit(workflows, machine)
    if not (unfit_here or config.cloud.declare_workflows):
        return None
    return sorted(workflows.keys() - unfit_here.keys())


def about(config: Config) -> dict[str, Json]:
    """Return the release, the slots and the space that is left for the state folder, which may be on any disk."""
    said: dict[str, Json] = {
        "version": __version__,
        "slots": min(config.slots, _MOST_SLOTS),
    }
    try:
        disk = os.statvfs(config.state_folder)
    except OSError:
        # What is wrong with the folder is said where it is used.
        return said
    # 0 means that nothing is said.
    said["free_bytes"] = min(max(disk.f_bavail * disk.f_frsize, 1), _MOST_BYTES)
    return said
