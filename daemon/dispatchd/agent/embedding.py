"""The agent as a part of another program of Python: in a task group of that program, or in its foreground."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import structlog
from anyio import to_thread

from dispatchd.agent.config.load import Config
from dispatchd.agent.config.usual import load_here, usual_file
from dispatchd.agent.endpoint.open import check_outward
from dispatchd.agent.serve import serve
from dispatchd.agent.wiring import Surroundings
from dispatchd.brand import DISPATCHD, Brand
from dispatchd.concurrency.own_threads import end_if_left
from dispatchd.linux.kernel import forbid_tracing
from dispatchd.linux.log import Scrubber, configure
from dispatchd.linux.pid1 import leave_orphans_to_init
from dispatchd.protocol.job import Json
from dispatchd.redaction.known_secrets import KnownSecrets

_NO_FILE: Final = "(configuration)"
"""Name by which problems are told of a configuration that is in no file."""


class Agent:
    """An agent with a configuration. Nothing is read, opened or started before it runs."""

    def __init__(
        self,
        config: Mapping[str, Json] | str | os.PathLike[str] | None = None,
        *,
        folder: str | os.PathLike[str] = ".",
        brand: Brand = DISPATCHD,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Keep what the agent is to run with.

        Args:
            config: The configuration: a file, which a reload reads again, or its tables, as `tomllib` has them; by
                default the usual file of the brand.
            folder: Folder that paths in tables are relative to; those in a file are relative to the file's own.
            brand: Names of the program.
            environment: Variables that the agent reads; by default those of this process.
        """
        self._document = config if isinstance(config, Mapping) else None
        if isinstance(config, Mapping):
            file = Path(folder, _NO_FILE)
        elif config is None:
            file = usual_file(brand)
        else:
            file = Path(config)
        # A reload finds it again even if the working folder changes.
        self._file = file.parent.resolve() / file.name
        self._brand = brand
        here = os.environ  # noqa: TID251  # a program of its own has no other place for it
        self._environment = dict(here if environment is None else environment)
        self._known = KnownSecrets()

    @property
    def redact(self) -> structlog.typing.Processor:
        """A processor of structlog, to be the last one: it takes the secrets that the agent has seen out of a line."""
        return Scrubber(self._known)

    async def run(self) -> None:
        """Run the agent until it is cancelled, which stops it in order, as SIGTERM stops `dispatchd run`.

        That takes some seconds; live runs follow `runs.on_shutdown`. It changes no signal handler and no logging. Like
        every agent it keeps others of its user from tracing this process, so that no run reads its memory.

        Raises:
            UserError: The configuration, the state folder or this machine can't be used.
        """
        forbid_tracing()
        config = await to_thread.run_sync(self._read)
        stop, signals = anyio.create_memory_object_stream[signal.Signals](1)
        ended = anyio.Event()

        async def serve_to_the_end() -> None:
            try:
                with anyio.CancelScope(shield=True):
                    await serve(config, self._given(signals))
            finally:
                ended.set()

        with _one_error(), stop, signals:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(serve_to_the_end, name="agent")
                try:
                    await ended.wait()
                except anyio.get_cancelled_exc_class():
                    stop.send_nowait(signal.SIGTERM)
                    with anyio.CancelScope(shield=True):
                        await ended.wait()
                    raise

    def main(self, *, colours: bool = False) -> None:
        """Run the agent in the foreground of this process, as `dispatchd run` does, and return when it has stopped.

        SIGTERM and SIGINT stop it, SIGHUP has it read its configuration again; it logs to stdout. For the main thread
        of a program that does nothing else.

        Args:
            colours: True for colours in a log of text.

        Raises:
            UserError: The configuration, the state folder or this machine can't be used.
        """
        # First, so that the process that stays behind as init is small.
        leave_orphans_to_init()
        # A run has this user's uid, but must not read the daemon's memory or environment.
        forbid_tracing()
        config = self._read()
        configure(
            config.log.level,
            config.log.format,
            known=self._known,
            under_systemd="JOURNAL_STREAM" in self._environment,
            colours=colours,
            renamed=self._brand.message,
        )

        async def run_until_signal() -> None:
            with anyio.open_signal_receiver(
                signal.SIGTERM, signal.SIGINT, signal.SIGHUP
            ) as signals:
                end = partial(os._exit, os.EX_OK)
                await serve(config, self._given(signals, end))

        with _one_error():
            anyio.run(run_until_signal)
        end_if_left(os.EX_OK)

    def _read(self) -> Config:
        """Return the configuration, checked as a whole.

        Raises:
            ConfigError: It can't be used.
        """
        config = load_here(
            self._file, self._environment, self._brand, document=self._document
        )
        check_outward(config, self._environment)
        return config

    def _given(
        self,
        signals: AsyncIterator[signal.Signals],
        end: Callable[[], object] | None = None,
    ) -> Surroundings:
        return Surroundings(
            environment=self._environment,
            signals=signals,
            reread=self._read,
            known=self._known,
            end=end,
        )


@contextmanager
def _one_error() -> Iterator[None]:
    """Raise an error as it is where it is the only one in a group of a task group."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = _alone(group)
        raise error from None


def _alone(error: BaseException) -> BaseException:
    """Return the only error in groups of groups; an error that is none, or a group of several, as it is."""
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return _alone(error.exceptions[0])
    return error
