"""A daemon that starts one attempt and is killed then: a process of its own, which says on stdout how far it is.

Comes from `killed.py`, which sends the configuration and the scene to its stdin as a line of JSON. It ends with its stdin.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
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


def _own_stdout() -> Callable[..., None]:
    """Return a call that says something on stdout; whatever else is printed there, as by an engine, goes to stderr."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(**message: Json) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    return say


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(1)


async def _start(
    bench: Bench, scene: Scene, stop_at: str, say: Callable[..., None]
) -> None:
    async def record(identity: Identity) -> None:
        say(at=AT_RECORD, identity=to_json(identity))
        if stop_at == AT_RECORD:
            await anyio.sleep_forever()
        say(at=AT_RECORDED)

    await bench.start(scene, record)
    say(at=AT_STARTED)
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
    say = _own_stdout()
    document = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    environment = dict(os.environ)  # noqa: TID251  # a program of its own
    config, name = own_config(_config(document, environment), document["engine"])
    scene = Scene(
        folder=Path(document["folder"]),
        engine=name,
        script=document["script"],
        env=document["env"],
    )
    bench = Bench(config, name, environment, scene.folder.parent, 0.0, Commands())
    anyio.run(_start, bench, scene, document["stop_at"], say)


if __name__ == "__main__":
    main()
