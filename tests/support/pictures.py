"""Pictures of the hub's page for people to look at: `python -m support.pictures FOLDER [WORD]...` (`make pictures`).

A hub of its own has a job, a machine and a delivery in each state. Words choose the pictures whose names have one.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import Any, Final

import anyio
from anyio import to_thread
from attrs import evolve
from playwright.async_api import Browser
from sqlalchemy import update

from dispatchd.hub.config.load import TOKEN_FILE
from dispatchd.hub.domain.model import State
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.schema import ATTEMPTS, DELIVERIES, JOBS, MACHINES
from dispatchd.protocol.report import LogChunk
from support.browser import chromium, visit
from support.clock import SkippingLoop
from support.hub import HubHere, hub
from support.machine import Machine
from support.seed import hostile_job, many_entries, one_of_each, seed

_LISTS: Final = ("/", "/queue", "/machines", "/deliveries", "/github", "/audit")
_WIDTHS: Final = (1280, 390)
_SCHEMES: Final = ("light", "dark")
_HOUR_S: Final = 3600.0
_SAID: Final = {"version": "1.4.0", "slots": 4, "free_bytes": 53 << 30}
_TITLE: Final = (
    "Read a ref of 512 characters, and say by which rule a longer one is refused"
)
_LOG: Final = b"".join(
    b"\x1b[32mok\x1b[0m test_parser.py::test_%03d \x1b[2m[%d %%]\x1b[0m\n" % (n, n)
    for n in range(100)
)


async def scene(server: HubHere) -> None:
    """Bring jobs, machines and deliveries into each state."""
    await to_thread.run_sync(one_of_each, server.folder)
    await to_thread.run_sync(many_entries, server.folder, 20)
    await to_thread.run_sync(seed, server.folder, hostile_job())
    busy = Machine(http=server.http, said=_SAID, workflows=["build", "deploy", "docs"])
    idle = evolve(busy, workflows=["docs"])
    await evolve(idle, name="m2", said={**_SAID, "free_bytes": 1}).ask()
    for number in range(3, 5):
        await evolve(idle, name=f"m{number}", said=None).ask()
    await server.http.post("/api/v1/machines", json={"name": "new-machine"})
    await server.http.post("/api/v1/machines/b/revoke")
    bound = {"workflows": ["docs"], "repositories": ["octo-org/*"]}
    await server.http.post("/api/v1/machines/m2/bind", json=bound)
    job = {
        "id": "real",
        "dag_name": "build",
        "title": _TITLE,
        "priority": 9,
        "repository_name": "octo-org/octo-repo",
        "actor_login": "octo-kim",
    }
    await server.submit(job)
    await (await busy.pull()).release()
    held = await busy.pull()
    await held.accept()
    await held.beat("accepted")
    await held.beat("running")
    chunk = LogChunk(attempt=1, offset=0, data=_LOG)
    await busy.call("log", "real", **chunk.to_wire())
    await to_thread.run_sync(_age, server.folder)


def _age(folder: Path) -> None:
    """Let one machine be away, and the running job have taken a while in each of its parts."""
    now = time()
    database = Database.open(f"sqlite:///{folder / 'hub.db'}")
    with database.transaction() as db:
        for number, state in enumerate(("queued", "ignored", "redelivered")):
            said = {"state": state, "routing": f"Why it is {state}, in words."}
            one = update(DELIVERIES).where(DELIVERIES.c.id == f"d{19 - number}")
            db.execute(one.values(said))
        silent = update(MACHINES).where(MACHINES.c.name == "m4")
        db.execute(silent.values(seen_at=now - 7 * _HOUR_S))
        times = {"created_at": 900, "claimed_at": 400, "accepted_at": 390}
        run = {"started_at": 350, "run_ended_at": 40}
        db.execute(
            update(JOBS)
            .where(JOBS.c.id == "real")
            .values({name: now - ago_s for name, ago_s in (times | run).items()})
        )
        for number, claimed_s, ended_s in ((1, 700, 600), (2, 400, 0)):
            own = (ATTEMPTS.c.job_id == "real") & (ATTEMPTS.c.number == number)
            claim = {
                "claimed_at": now - claimed_s,
                "ended_at": now - ended_s if ended_s else 0,
            }
            db.execute(update(ATTEMPTS).where(own).values(claim))
    database.close()


async def take(server: HubHere, browser: Browser, folder: Path, *words: str) -> None:
    """Take the pictures whose names have one of the words; all, where there are none."""
    jobs = [f"/jobs/in-{state}" for state in State]
    for scheme in _SCHEMES:
        for width in _WIDTHS:
            options: dict[str, Any] = {"color_scheme": scheme}
            options["viewport"] = {"width": width, "height": 900}
            names = {
                f"{path.strip('/').replace('/', '-') or 'jobs'}-{width}-{scheme}": path
                for path in (*_LISTS, "/jobs/real", *jobs)
            }
            chosen = {
                name: path
                for name, path in names.items()
                if not words or any(word in name for word in words)
            }
            if not chosen:
                continue
            async with visit(browser, server, **options) as found:
                await found.login((server.folder / TOKEN_FILE).read_text().strip())
                for name, path in chosen.items():
                    await found.go(path)
                    if path == "/jobs/real":
                        await found.page.get_by_label("Find in the log").fill("_04")
                    file = folder / f"{name}.png"
                    await found.page.screenshot(path=file, full_page=True)
                    print(file)  # for whoever waits


async def main(folder: Path, *words: str) -> None:
    """Take pictures into a folder."""
    await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="dispatchd-pictures-") as temporary:
        async with hub(Path(temporary) / "hub") as server, chromium() as browser:
            await scene(server)
            await take(server, browser, folder, *words)


if __name__ == "__main__":
    options = {"loop_factory": SkippingLoop}
    anyio.run(main, Path(sys.argv[1]), *sys.argv[2:], backend_options=options)
