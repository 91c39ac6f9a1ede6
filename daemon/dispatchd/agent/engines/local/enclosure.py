"""From a launch to its argument vector: the command itself, behind a wall of the kernel, or inside another program."""

import os
from collections.abc import Mapping

from attrs import field, frozen

from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.local.bubblewrap import bubblewrapped
from dispatchd.agent.engines.local.podman import Podman, client_only
from dispatchd.agent.engines.local.walls import Walls
from dispatchd.linux.landlock import Rule


@frozen(kw_only=True)
class Enclosed:
    """A command with its isolation around it, as a shim executes it.

    `rules` are the openings of its wall, None for no wall. `deaf` is true if the program ignores signals to its group,
    because they are for the command within.
    """

    command: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    rules: list[Rule] | None = None
    deaf: bool = False


def enclose(
    launch: Launch, env: Mapping[str, str], walls: Walls, podman: Podman
) -> Enclosed:
    """Return a launch's command with its isolation around it. Blocks.

    Raises:
        SpawnFailed: It can't be enclosed.
    """
    match launch.isolation:
        case Isolation.BUBBLEWRAP:
            path = podman.environment.get("PATH", os.defpath)
            openings = walls.openings(launch)
            command = bubblewrapped(launch, openings, path)
            return Enclosed(command=command, env=env, deaf=True)
        case Isolation.CONTAINER:
            command = podman.command(launch, env, walls.own_openings(launch))
            client = {**client_only(env), **podman.client_environment}
            return Enclosed(command=command, env=client)
        case _:
            rules = walls.rules(launch)
            return Enclosed(command=launch.command, env=env, rules=rules)
