"""A log of many megabytes, followed while it is written, with the line cut and both sides killed: whole at the end, in little memory.

`--size 10` is one of 200 MB at 5 MB/s. It prints how far behind a program and, where there is one, a browser was.
"""

import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from shutil import which
from statistics import median
from typing import cast

import anyio
import httpx
import pytest
from attrs import define, field

from support.browser import NAMES, Visit, chromium, visit
from support.daemon import write_config
from support.daemon_process import DaemonProcess, running
from support.front import Cut, Fault, front
from support.hub import HubHere
from support.hub_page import admin_token
from support.hub_process import HubProcess, hub
from support.local_log import clean_log
from support.torture import Torture
from support.until import until

MB = 1_000_000
RATE = 5 * MB
"""Speed of the run (bytes in a second)."""

KILLS = 5
"""How often each side is killed."""

CUTS = 2
"""How often the line between them is cut, for each 20 MB."""

GROWTH_MIB = 64
"""How much more memory each side may take than before the run, however long the log is."""

SECRET = "hunter2-the-value-of-the-secret"

WRITES = """
import os, sys, time
total, rate = int(sys.argv[1]), int(sys.argv[2])
secret, out = os.environ["KEY"].encode(), sys.stdout.buffer
begun, written, number, stamped = time.monotonic(), 0, 0, 0.0

def write(text):
    global written
    out.write(text)
    written += len(text)

while written < total:
    number += 1
    write(b"\\x1b[32m%07d\\x1b[0m a line of a build, about as long as they are in life \\x1b[1;31mwarning\\x1b[0m\\n" % number)
    if number % 100 == 0:
        for percent in range(0, 100, 20):
            write(b"\\r  %3d %% \\xe2\\x96\\x88\\xe2\\x96\\x88" % percent)
        write(b"\\n")
    if number % 5000 == 0:
        write(b"x" * 200_000 + b"\\xff\\x00\\r\\n")
    if number % 1000 == 0:
        write(secret[:11])
        out.flush()
        write(secret[11:] + b"\\n")
    now = time.monotonic()
    if now - stamped > 0.1:
        stamped = now
        write(b"stamp %.3f\\n" % now)
    early_s = written / rate - (now - begun)
    if early_s > 0.01:
        out.flush()
        time.sleep(early_s)
out.flush()
# A run with secrets whose end no daemon sees keeps the rest of its log to itself.
while not os.path.exists("go"):
    time.sleep(0.05)
"""

STAMP = re.compile(rb"stamp ([0-9.]+)\n")

pytestmark = [pytest.mark.torture(least_s=90), pytest.mark.timeout(1800)]


@define
class Follower:
    """Follows the log of the job `j`, and notes how long ago the newest line that it has was written."""

    http: httpx.AsyncClient
    size: int = 0
    rest: bytes = b""
    is_calm: bool = True
    behind_s: list[float] = field(factory=list)
    """How far it was behind in the calm (seconds)."""

    async def follow(self, wait_s: float = 5) -> None:
        """Read to the end."""
        while True:
            asked = {"part": 1, "offset": self.size, "wait": wait_s}
            try:
                reply = await self.http.get("/api/v1/jobs/j/log", params=asked)
                reply.raise_for_status()
            except httpx.HTTPError:
                await anyio.sleep(0.1)
                continue
            self._take(reply.content)
            if reply.headers["log-complete"] == "1":
                return

    def _take(self, text: bytes) -> None:
        self.size += len(text)
        stamps = STAMP.findall(self.rest + text)
        self.rest = text[-50:]
        if stamps and self.is_calm:
            self.behind_s.append(time.monotonic() - float(stamps[-1]))


@define
class Memory:
    """Largest resident memory of both sides (MiB)."""

    hub: float = 0
    daemon: float = 0

    def look(self, server: HubProcess, daemon: DaemonProcess) -> None:
        """Look at both, as far as they live."""
        self.hub = max(self.hub, resident_mib(server.process.pid))
        self.daemon = max(self.daemon, resident_mib(daemon.process.pid))


def resident_mib(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else 0


@define
class Scene:
    """A hub, a machine that reaches it over a line that is cut, and a job that writes."""

    server: HubProcess
    daemon: DaemonProcess
    cuts: list[Cut]
    """Cuts that are still to be made, from the last."""
    follower: Follower
    memory: Memory = field(factory=Memory)
    is_over: bool = False

    async def watch_memory(self) -> None:
        while not self.is_over:
            self.memory.look(self.server, self.daemon)
            await anyio.sleep(0.2)

    async def kill_in_turn(self, pause_s: float) -> None:
        """Kill each side, one after the other."""
        for _ in range(KILLS):
            await anyio.sleep(pause_s)
            self.server.kill()
            await self.server.start()
            await anyio.sleep(pause_s)
            self.daemon.kill()
            self.daemon.start()

    async def let_end(self, total: int) -> None:
        """Let the run end, once most of its log is at the hub again."""
        await until(lambda: self.follower.size > total * 0.9, 600)
        (self.daemon.state / "runs/j/workspace/go").touch()

    async def until_over(self) -> None:
        """Return once the hub has the whole log, and the job has ended."""
        await self.follower.follow()
        await self.server.result("j", within_s=600)
        self.is_over = True


@asynccontextmanager
async def scene(tmp_path: Path, total: int, limits: str) -> AsyncIterator[Scene]:
    """Run a job that writes `total` bytes, and follow it."""
    folder = tmp_path / "machine"
    cuts: list[Cut] = []
    calls = 0

    def cut(path: str) -> Fault | None:
        nonlocal calls
        calls += path.endswith("/log")
        if not (cuts and path.endswith("/log") and calls % 2):
            return None
        return Fault(cut=cuts.pop())

    async with hub(tmp_path / "hub") as server, front(server.url) as line:
        line.decide = cut
        command = ["python3", str(folder / "writes.py"), str(total), str(RATE)]
        config = write_config(folder, line.url, {"it": command}, limits=limits)
        (folder / "writes.py").write_text(WRITES)
        (folder / "key").write_text(SECRET)
        config.write_text(config.read_text() + '\n[secrets.key]\nfile = "key"\n')
        with running(config) as daemon:
            await daemon.until_logged("daemon_ready")
            await server.submit({"id": "j", "dag_name": "it"})
            await server.result("j", until="running")
            yield Scene(server, daemon, cuts, Follower(server.http))


async def whole_log(http: httpx.AsyncClient) -> bytes:
    text = bytearray()
    while True:
        asked = {"part": 1, "offset": len(text)}
        reply = await http.get("/api/v1/jobs/j/log", params=asked)
        text += reply.raise_for_status().content
        if not reply.content:
            return bytes(text)


async def look_at_the_page(page: Visit, scene: Scene, behind_s: list[float]) -> None:
    """Note how far behind the browser is (seconds), while all is calm."""
    while scene.follower.is_calm:
        text = await page.page.evaluate(
            "() => (document.querySelector('#log')?.textContent ?? '').slice(-20000)"
        )
        if stamps := STAMP.findall(text.encode()):
            behind_s.append(time.monotonic() - float(stamps[-1]))
        await anyio.sleep(0.3)


def said(name: str, behind_s: list[float]) -> str:
    if not behind_s:
        return f"{name}: not looked at"
    return f"{name}: {median(behind_s):.2f} s behind in the middle, {max(behind_s):.2f} s at most, of {len(behind_s)}"


async def test_a_long_log_is_followed_and_whole_though_all_is_cut_and_killed(
    tmp_path: Path, torture: Torture
) -> None:
    total = 20 * MB * torture.size
    limits = "secrets = { KEY = 'key' }\noutput_max_mib = 256"
    in_browser: list[float] = []
    calm_s = total / RATE / 2
    async with scene(tmp_path, total, limits) as found, AsyncExitStack() as stack:
        pages: list[Visit] = []
        if any(map(which, NAMES)):
            browser = await stack.enter_async_context(chromium())
            hub_here = cast(
                "HubHere", found.server
            )  # what a visit asks of it, both have
            pages += [await stack.enter_async_context(visit(browser, hub_here))]
        for page in pages:
            await page.login(admin_token(found.server), "/jobs/j")
        begun = Memory()
        begun.look(found.server, found.daemon)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(found.watch_memory)
            tasks.start_soon(found.until_over)
            for page in pages:
                tasks.start_soon(look_at_the_page, page, found, in_browser)
            await anyio.sleep(calm_s)
            found.follower.is_calm = False
            kinds = [*Cut]
            found.cuts += [kinds[n % len(kinds)] for n in range(CUTS * torture.size)]
            await found.kill_in_turn(calm_s / (2 * KILLS))
            await found.let_end(total)
        whole = await whole_log(found.server.http)
        expected = clean_log(found.daemon, [SECRET])
        left = len(found.cuts)

    print(f"\n{len(whole) / MB:.1f} MB at {RATE / MB:g} MB/s")
    print(said("program", found.follower.behind_s))
    print(said("browser", in_browser))
    print(f"hub {begun.hub:.0f} -> {found.memory.hub:.0f} MiB")
    print(f"daemon {begun.daemon:.0f} -> {found.memory.daemon:.0f} MiB")
    assert left == 0
    # A mark is shorter than the secret.
    assert len(expected) > 0.99 * total
    assert expected.count(b"[redacted]\n") > 0
    assert whole == expected
    assert found.follower.size == len(expected)
    assert found.memory.hub - begun.hub < GROWTH_MIB
    assert found.memory.daemon - begun.daemon < GROWTH_MIB


async def test_of_a_log_that_is_too_long_head_and_tail_are_there(
    tmp_path: Path, torture: Torture
) -> None:
    total = 20 * MB * torture.size
    limits = "secrets = { KEY = 'key' }\noutput_max_mib = 4"
    async with scene(tmp_path, total, limits) as found:
        (found.daemon.state / "runs/j/workspace/go").touch()
        await found.until_over()
        whole = await whole_log(found.server.http)
        expected = clean_log(found.daemon, [SECRET])

    assert whole == expected
    assert len(whole) < 5 << 20
    assert whole.startswith(b"\x1b[32m0000001")
    assert b"bytes of output are left out here]" in whole
    assert STAMP.search(whole[-1 * MB :])
