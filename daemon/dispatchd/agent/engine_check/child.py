"""A daemon that starts one attempt and is killed then: a process of its own, which says on stdout how far it is.

Comes from `killed.py`, which sends the configuration and the scene to its stdin as JSON.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

import anyio

from dispatchd.agent.config.load import Config, Places, load
from dispatchd.agent.domain.executions.identities import Identity
from dispatchd.agent.engine_check.bench import Bench, Commands, own_config
from dispatchd.agent.engine_check.scene import Scene
from dispatchd.agent.engine_check.told import to_json
from dispatchd.linux.log import silence
from dispatchd.protocol.job import Json

AT_RECORD: Final = "record"
"""The attempt is prepared, and its identity isn't stored."""

AT_RECORDED: Final = "recorded"
"""Its identity is stored; the start continues."""

AT_STARTED: Final = "started"
"""The start has returned."""


def _say(**message: Json) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def _start(bench: Bench, scene: Scene, stop_at: str) -> None:
    async def record(identity: Identity) -> None:
        _say(at=AT_RECORD, identity=to_json(identity))
        if stop_at == AT_RECORD:
            await anyio.sleep_forever()
        _say(at=AT_RECORDED)

    await bench.start(scene, record)
    _say(at=AT_STARTED)
    await anyio.sleep_forever()


def _config(document: dict[str, Any], environment: dict[str, str]) -> Config:
    return load(
        Path(document["config"]),
        defaults=Places(
            state_folder=Path(document["state"]),
            control_folder=Path(document["control"]),
        ),
        search_path=environment.get("PATH", os.defpath),
    )


def main() -> None:
    """Start the attempt that stdin says, and wait to be killed."""
    silence()
    document = json.load(sys.stdin)
    environment = dict(os.environ)  # noqa: TID251  # a program of its own
    config, name = own_config(_config(document, environment), document["engine"])
    scene = Scene(
        folder=Path(document["folder"]),
        engine=name,
        script=document["script"],
        env=document["env"],
    )
    bench = Bench(config, name, environment, scene.folder.parent, 0.0, Commands())
    anyio.run(_start, bench, scene, document["stop_at"])


if __name__ == "__main__":
    main()
