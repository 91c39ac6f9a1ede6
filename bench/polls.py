"""Many machines that hold a poll at one hub: their cost, and the time until a submitted job reaches one of them."""

import json
import time
from typing import Final

import anyio
from anyio.abc import ByteStream
from attrs import define, field

from bench.agents import tree_cpu_s
from bench.harness import Hub, Machine, folder, hub, percentile
from bench.idle import resident_mib

MACHINES: Final = 500
JOBS: Final = 300
WATCH_S: Final = 10.0
AIM_MS: Final = 50


@define
class Waiting:
    """Machines that hold polls: the times at which a job reached one of them (seconds, performance counter)."""

    reached: dict[str, float] = field(factory=dict)
    news: anyio.Event = field(factory=anyio.Event)
    held: int = 0

    async def machine(self, port: int, machine: Machine) -> None:
        """Poll forever over one connection, as a daemon does."""
        proof = {**machine.identity, "heartbeat_secret": machine.secret}
        body = json.dumps(proof).encode()
        head = (
            "POST /api/v1/github/dispatch/pull HTTP/1.1\r\nHost: hub\r\nPrefer: wait=300\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            while True:
                self.held += 1
                await stream.send(head.encode() + body)
                job = await answer(stream)
                self.reached[job] = time.perf_counter()
                self.news.set()
                self.news = anyio.Event()


async def answer(stream: ByteStream) -> str:
    """Return the id of the job in an answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    head, _, rest = data.partition(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length")
    )
    while len(rest) < length:
        rest += await stream.receive()
    return str(json.loads(rest)["id"])


def main() -> None:
    """Print memory and processor time while nothing happens, and the time from submit to machine."""
    # All of these machines have one address.
    limits = "[connections]\nsilent_per_address = 0\n"
    with folder() as path, hub(path, more=limits) as server:
        anyio.run(measure, server)


async def measure(server: Hub) -> None:
    """Hold the polls, watch the hub, submit jobs one after the other."""
    pid, port = server.pid, int(server.url.rpartition(":")[2])
    machines = [server.add_machine(number) for number in range(MACHINES)]
    before = resident_mib(pid)
    waiting, times_ms = Waiting(), []
    async with anyio.create_task_group() as tasks:
        for machine in machines:
            tasks.start_soon(waiting.machine, port, machine)
        # The hub holds them a moment after they were sent.
        while held_polls(server) < MACHINES:  # noqa: ASYNC110  # another process
            await anyio.sleep(0.05)
        began_s = tree_cpu_s(pid)
        await anyio.sleep(WATCH_S)
        used_s, resident = tree_cpu_s(pid) - began_s, resident_mib(pid)
        for number in range(JOBS):
            name = f"job-{number}"
            began = time.perf_counter()
            await anyio.to_thread.run_sync(server.submit, name)
            while name not in waiting.reached:
                await waiting.news.wait()
            times_ms.append((waiting.reached[name] - began) * 1e3)
        tasks.cancel_scope.cancel()
    p50, p99 = (percentile(times_ms, part) for part in (0.5, 0.99))
    print(f"{MACHINES} machines that hold a poll at one hub")
    print(f"  reference: the hub without them   {before:7.1f} MiB")
    print(
        f"  with them                         {resident:7.1f} MiB, {(resident - before) * 1024 / MACHINES:.0f} KiB each"
    )
    print(f"  processor time in {WATCH_S:.0f} s            {used_s * 1e3:7.0f} ms")
    print(
        f"  submit to machine                 p50 {p50:6.2f} ms   p99 {p99:6.2f} ms   aim: p99 within {AIM_MS} ms"
    )


def held_polls(server: Hub) -> int:
    """Return the number of polls that the hub reports as held."""
    text = server.http.get("/metrics").raise_for_status().text
    line = next(
        line
        for line in text.splitlines()
        if line.startswith("dispatchd_hub_held_polls ")
    )
    return int(float(line.split()[1]))


if __name__ == "__main__":
    main()
