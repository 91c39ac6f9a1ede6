"""Daemons of a trial that are killed with SIGKILL at a step of a start."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from attrs import define

from dispatchd.agent.domain.executions.identities import Identity
from dispatchd.agent.domain.launch import LOCAL
from dispatchd.agent.engine_check.bench import Bench, Broken
from dispatchd.agent.engine_check.child import AT_RECORD
from dispatchd.agent.engine_check.scene import Scene
from dispatchd.agent.engine_check.told import from_json


@define
class Daemon:
    """A process that starts one attempt, up to a step."""

    bench: Bench
    process: Process
    identity: Identity | None = None

    async def until(self, step: str) -> Identity:
        """Wait for a step, and return the attempt's identity.

        Raises:
            Broken: It ends before.
        """
        stdout = self.process.stdout
        assert stdout is not None  # noqa: S101  # it has a pipe
        read = ""
        with anyio.move_on_after(self.bench.patience_s):
            async for piece in TextReceiveStream(stdout):
                read += piece
                *lines, read = read.split("\n")
                for line in lines:
                    said: dict[str, Any] = json.loads(line)
                    if said["at"] == AT_RECORD:
                        self.identity = from_json(said["identity"])
                    if said["at"] == step and self.identity is not None:
                        return self.identity
        message = f"the daemon did not come to the step {step}"
        raise Broken(message)

    async def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def daemon(
    bench: Bench, scene: Scene, *, stop_at: str, **variables: str
) -> AsyncIterator[Daemon]:
    """Run a daemon with more variables in its environment; it is killed behind the block at the latest.

    Raises:
        Broken: The block raised it.
    """
    config = bench.config
    name = LOCAL if bench.is_local else bench.name.removesuffix(".check")
    process = await anyio.open_process(
        [sys.executable, "-m", "dispatchd.agent.engine_check.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**bench.environment, **variables},
    )
    running, is_done = Daemon(bench, process), False
    try:
        stdin = process.stdin
        assert stdin is not None  # noqa: S101  # it has a pipe
        document = {
            "config": str(config.file),
            "state": str(config.state_folder),
            "control": str(config.control_folder),
            "engine": name,
            "folder": str(scene.folder),
            "script": scene.script,
            "env": dict(scene.env),
            "stop_at": stop_at,
        }
        # It ends with its stdin, and so with this process.
        await stdin.send(f"{json.dumps(document)}\n".encode())
        yield running
        is_done = True
    finally:
        if not is_done and running.identity is not None:
            # It may run; the bench ends it.
            bench.owned[running.identity] = scene
        with anyio.CancelScope(shield=True):
            await running.kill()
