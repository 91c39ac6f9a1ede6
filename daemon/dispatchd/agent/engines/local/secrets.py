"""Reading secrets at the start of a run: each is read again, so that a rotated one needs no restart.

A value goes into the environment of its command and nowhere else. After a restart of the daemon the secrets of a
live run are read from its shim's request (`starter.Request`). The source may hold a newer value by then, and the
old one still has to be redacted in reports.
"""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from signal import SIGKILL
from subprocess import DEVNULL, PIPE
from typing import Final

import anyio
import structlog
from anyio.abc import Process
from attrs import field, frozen

from dispatchd.agent.domain.executions.identities import ProcessIdentity
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.domain.run.secret import SecretSource
from dispatchd.agent.engines.local.gate import of_command
from dispatchd.agent.engines.local.process import read_environment, read_request
from dispatchd.concurrency.own_threads import OwnThreads
from dispatchd.errors import SecretUnavailable
from dispatchd.protocol.times import duration

NAMES: Final = "DISPATCHD_SECRETS"
"""Variable that lists the variables of a run's environment that are secrets, separated by commas."""

_COMMAND_S: Final = 30.0
"""Time limit of a command that prints a secret (seconds)."""

_REST_S: Final = 0.2
"""Time to read what a command has printed that has ended, while others keep its output open (seconds)."""

_REAP_S: Final = 5.0
"""Longest wait for the end of a command that was killed (seconds): it may hang in the kernel."""

_FILE_S: Final = 30.0
"""Time limit of reading a file (seconds): it may be on a file system that hangs, or a pipe."""

_LARGEST: Final = 64 * 1024
"""Largest secret (bytes): Linux refuses a variable over 128 KiB (execve(2), MAX_ARG_STRLEN)."""


@frozen(kw_only=True)
class SecretReader:
    """Reads secrets from their sources; `environment` is the daemon's own."""

    environment: Mapping[str, str]
    _threads: OwnThreads = field(factory=OwnThreads, init=False)

    async def read(self, source: SecretSource) -> str:
        """Return a secret's value.

        Raises:
            SecretUnavailable: It isn't available now; the reason doesn't quote it.
        """
        try:
            data = await self._bytes(source)
            # This removes a byte order mark, which some editors write.
            value = data.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
        except TimeoutError as error:
            raise SecretUnavailable(
                name=source.name, reason=f"its file gave {error}"
            ) from error
        except (OSError, KeyError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"no {error}"
            raise SecretUnavailable(name=source.name, reason=str(reason)) from error
        except UnicodeDecodeError as error:
            reason = "it isn't UTF-8 text"
            raise SecretUnavailable(name=source.name, reason=reason) from error
        if not value or "\0" in value or len(data) > _LARGEST:
            reason = "it is empty, holds a NUL character, or is larger than 64 KiB"
            raise SecretUnavailable(name=source.name, reason=reason)
        return value

    async def _bytes(self, source: SecretSource) -> bytes:
        if source.command:
            return await self._printed(source)
        if source.env:
            return self.environment[source.env].encode(errors="surrogateescape")
        path = (
            Path(source.file)
            if source.file
            else Path(self.environment["CREDENTIALS_DIRECTORY"]) / source.credential
        )
        return await self._threads.run(path, partial(_read, path), within_s=_FILE_S)

    async def _printed(self, source: SecretSource) -> bytes:
        process = await anyio.open_process(
            source.command,
            stdin=DEVNULL,
            stdout=PIPE,
            # An error message may quote the secret.
            stderr=DEVNULL,
            env=dict(self.environment),
            start_new_session=True,
        )
        try:
            with anyio.fail_after(_COMMAND_S):
                data = await _output_of(process)
                if len(data) <= _LARGEST:
                    await process.wait()
        except TimeoutError as error:
            reason = f"its command took more than {duration(_COMMAND_S)}"
            raise SecretUnavailable(name=source.name, reason=reason) from error
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process, source.name)
        if process.returncode and len(data) <= _LARGEST:
            reason = f"its command ended with exit code {process.returncode}"
            raise SecretUnavailable(name=source.name, reason=reason)
        return data


async def _end(process: Process, name: str) -> None:
    """End a command with what it has started in its session. One that can't be ended is left alone."""
    if process.returncode is None:
        # It may have become another user's, as by sudo(8).
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, SIGKILL)
        with anyio.move_on_after(_REAP_S):
            await process.wait()
    if process.returncode is None:
        # To close the process would be to wait for its end.
        structlog.get_logger().warning(
            "secret_command_left", source=name, pid=process.pid
        )
        return
    await process.aclose()


async def _output_of(process: Process) -> bytes:
    """Return what a command prints until it ends, whoever keeps its output open then; a little more than a secret may have."""
    data = b""
    if process.stdout is None:
        return data
    async with anyio.create_task_group() as tasks:

        async def until_it_ends() -> None:
            await process.wait()
            # What it has printed is in the pipe.
            await anyio.sleep(_REST_S)
            tasks.cancel_scope.cancel()

        tasks.start_soon(until_it_ends, name="end of a secret's command")
        async for chunk in process.stdout:
            data += chunk
            if len(data) > _LARGEST:
                break
        tasks.cancel_scope.cancel()
    return data


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LARGEST + 1)


async def environment_of(
    launch: Launch, reader: SecretReader
) -> tuple[dict[str, str], frozenset[str]]:
    """Return the whole environment of a launch, and the secrets that are in it.

    Raises:
        SecretUnavailable: A secret isn't available.
    """
    read = {
        variable: await reader.read(source)
        for variable, source in sorted(launch.secrets.items())
    }
    values = {**read, **launch.given}
    names = {NAMES: ",".join(values)} if values else {}
    return {**launch.env, **values, **names}, frozenset(values.values())


def recall(process: ProcessIdentity) -> frozenset[str] | None:
    """Return the secrets that a run was given, or None if its shim is gone. Blocks for a moment."""
    request = read_request(process)
    # A shim of an earlier release has them in its environment.
    environment = json.loads(request)["env"] if request else read_environment(process)
    if environment is None:
        return None
    given = of_command(environment)
    return frozenset(_values(given, given.get(NAMES, "").split(",")))


def _values(environment: Mapping[str, str], names: Iterable[str]) -> Iterable[str]:
    return (environment[name] for name in names if name in environment)
