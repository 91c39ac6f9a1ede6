"""Times of the hub's page with 1,000 jobs and 200 machines: `python -m bench.pages`.

Each page is loaded several times, one after the other, over one connection on loopback, by somebody who is logged in. The
first load of each comes right after the start of the hub, which has to compile its templates. Where there is a Chromium, it
loads the pages too, each time with an empty cache.
"""

import argparse
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from bench.harness import folder, percentile
from bench.hub_process import DISPATCH, HERE, Client, Served, served
from bench.hub_scale import fill, page_of

MACHINES: Final = 200
WORKFLOWS: Final = 20
"""Workflows that a machine declares (count)."""

RUNNING: Final = 50
QUEUED: Final = 350
FINISHED: Final = 600
AIM_MS: Final = 150
PATHS: Final = ("/", "/machines", "/queue", "/jobs/new-0")
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")

PAINT: Final = """() => new Promise(done => new PerformanceObserver(list =>
  done(list.getEntriesByName("first-contentful-paint")[0].startTime)).observe({type: "paint", buffered: true}))"""


def main() -> None:
    """Print the times of each page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--checkout", type=Path, default=HERE)
    given = parser.parse_args()
    with (
        folder() as path,
        served(
            path / "hub", "sqlite:///hub.db", checkout=given.checkout, machines=MACHINES
        ) as hub,
    ):
        fill("sqlite:///hub.db", path / "hub" / "hub.db", QUEUED, FINISHED)
        populate(hub)
        print(f"{QUEUED + FINISHED + RUNNING} jobs, {MACHINES} machines")
        print(
            f"  {'page':12}{'first':>10}{'p50':>10}{'p95':>10}{'size':>10}{'paint':>12}"
        )
        with page_of(hub) as load:
            firsts = {name: timed(partial(load, name), 1)[0][0] for name in PATHS}
            for name in PATHS:
                times, size = timed(partial(load, name), given.samples)
                paints = [*painted(hub, name, given.samples)]
                print(_line(name, firsts[name], times, size, paints))
    print(f"  aim: under {AIM_MS} ms")


def _line(
    name: str, first: float, times: list[float], size: int, paints: list[float]
) -> str:
    each = (first, percentile(times, 0.5), percentile(times, 0.95))
    ends = "".join(f"{seconds * 1e3:7.1f} ms" for seconds in each)
    paint = f"{percentile(paints, 0.5):9.1f} ms" if paints else f"{'-':>12}"
    return f"  {name:12}{ends}{size / 1024:6.0f} KiB{paint}"


def populate(hub: Served) -> None:
    """Let each machine pull once; the first ones run a job."""
    client = Client(hub)
    for number in range(RUNNING):
        client.submit(id=f"new-{number}", repository_name="acme/r1")
    for number, machine in enumerate(hub.machines):
        if number < RUNNING:
            job = client.claim(machine)
            client.report(machine, job, "accept", dag_run_id="r")
            client.report(machine, job, "heartbeat", phase="running")
        else:
            identity = {"license_id": "bench", "server_id": machine["server_id"]}
            # None that a queued job has.
            declared = [f"flow-{number}" for number in range(WORKFLOWS)]
            workflows: dict[str, object] = {"workflows": declared}
            body = {**identity, "heartbeat_secret": machine["secret"], **workflows}
            client.call("POST", f"{DISPATCH}/pull", {**body, "extensions": ["claim"]})


def timed(load: Callable[[], bytes], samples: int) -> tuple[list[float], int]:
    """Return the times of loads (seconds), and the size of the page (bytes)."""
    times, size = list[float](), 0
    for _ in range(samples):
        began = time.perf_counter()
        size = len(load())
        times.append(time.perf_counter() - began)
    return times, size


@contextmanager
def chromium() -> Iterator[Any]:
    """Run a browser for the length of a block; None where there is none."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None or find_spec("playwright") is None:
        yield None
        return
    # A tool of the tests, which a bench can do without.
    with import_module("playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"]
        )
        try:
            yield browser
        finally:
            browser.close()


def painted(hub: Served, path: str, samples: int) -> Iterator[float]:
    """Yield the times to the first contentful paint of a page (milliseconds); none without a browser."""
    with chromium() as browser:
        if browser is None:
            return
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{hub.url}/login")
        page.get_by_label("Access token").fill(hub.token)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{hub.url}/")
        session = context.new_cdp_session(page)
        session.send("Network.setCacheDisabled", {"cacheDisabled": True})
        for _ in range(samples):
            page.goto(f"{hub.url}{path}")
            yield float(page.evaluate(PAINT))


if __name__ == "__main__":
    main()
