"""Cost of a wall at the start of a run: from the order to the end of a command that does nothing."""

import os
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import anyio
from attrs import evolve

from bench.harness import folder, percentile
from dispatchd.agent.domain.executions.identities import ProcessIdentity
from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.local.engine import LocalEngine
from dispatchd.redaction.known_secrets import KnownSecrets

STARTS: Final = 200


def main() -> None:
    """Print the cost of a start with each isolation, taken in turns."""
    with folder() as path:
        plain, walled = anyio.run(starts, path)
    none, sandbox = percentile(plain, 0.5), percentile(walled, 0.5)
    print("start and end of /bin/true, median")
    print(f"  reference: isolation = none       {none * 1e3:7.2f} ms")
    print(f"  isolation = sandbox               {sandbox * 1e3:7.2f} ms")
    print(
        f"  sandbox - none                    {(sandbox - none) * 1e3:7.2f} ms   aim: under 0.5 ms"
    )
    print(f"  sandbox / none                    {sandbox / none:7.2f}")


async def starts(path: Path) -> tuple[list[float], list[float]]:
    """Return the seconds of starts without and with a wall."""
    files, workspace = path / "attempt-1/run", path / "workspace"
    files.mkdir(parents=True)
    workspace.mkdir()
    launch = Launch(
        run_id="bench",
        command=("/bin/true",),
        env={"PATH": os.defpath},
        workspace=workspace,
        folder=files.parent,
        files=files,
        output_file=files.parent / "output.log",
        isolation=Isolation.NONE,
    )
    plain: list[float] = []
    walled: list[float] = []
    engine = LocalEngine.here({"PATH": os.defpath}, KnownSecrets(), [path / "state"])
    with closing(engine) as local:
        for _ in range(STARTS):
            plain.append(await one_start(local, launch))
            walled.append(
                await one_start(local, evolve(launch, isolation=Isolation.SANDBOX))
            )
    return plain, walled


async def one_start(local: LocalEngine, launch: Launch) -> float:
    """Return the seconds from the order to the end."""
    identities: list[ProcessIdentity] = []

    async def record(process: ProcessIdentity) -> None:
        identities.append(process)

    began = time.perf_counter()
    await local.start(launch, record)
    await local.observe(identities[0], launch.folder)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
