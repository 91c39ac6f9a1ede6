"""A real hub process on a free loopback port."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from attrs import define, field
from typing_extensions import override

from dispatchd.hub.config.load import FILE
from support.forks import Process, dispatchd_in
from support.hub import Hub, client
from support.until import until


@define(kw_only=True)
class HubProcess(Hub):
    """One `dispatchd hub serve`."""

    env: Mapping[str, str] = field(factory=dict)
    wrapper: tuple[str, ...] = ()
    process: Process = field(init=False)

    @override
    async def start(self) -> None:
        self.make()
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            self.process = dispatchd_in(
                *("hub", "serve", "--config", str(self.folder / FILE)),
                *("--port-file", str(port_file)),
                env=self.env,
                output=log.fileno(),
                wrapper=self.wrapper,
            )

        def answers() -> bool:
            assert self.process.poll() is None, self.log_file.read_text()
            return port_file.exists()

        await until(answers, 120)
        self.answers_at(int(port_file.read_text()))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, within_s: float = 20) -> int:
        self.process.terminate()
        return self.process.wait(within_s)


@asynccontextmanager
async def hub(folder: Path, **options: Any) -> AsyncIterator[HubProcess]:
    """Run a hub for the length of a block."""
    server = HubProcess(folder=folder, **options)
    await server.start()
    try:
        async with client(server) as server.http:
            yield server
    finally:
        server.kill()
