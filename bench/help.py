"""Time that `--help` takes beyond the interpreter's own start, for every command."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import click

from bench.harness import percentile, timed_s
from dispatchd.cli.main import cli

ROUNDS: Final = 7
AIM_MS: Final = 150
BARE: Final = (sys.executable, "-c", "pass")
FRONT: Final = (sys.executable, "-m", "dispatchd")
SHOWN: Final = 3
"""Number of slowest commands that are named (count)."""


def main() -> None:
    """Print the extra time of the front page and of the slowest commands."""
    paths = list(commands(cli, ()))
    starts = [BARE, *((*FRONT, *path, "--help") for path in paths)]
    # The first round writes the interpreter's cache of each module, and isn't counted.
    rounds = [[one_s(start) for start in starts] for _ in range(1 + ROUNDS)][1:]
    bare_s, *helps_s = (percentile(times, 0.5) for times in zip(*rounds, strict=True))
    extra_ms = {
        path: (help_s - bare_s) * 1e3
        for path, help_s in zip(paths, helps_s, strict=True)
    }
    slowest = sorted(extra_ms, key=extra_ms.__getitem__, reverse=True)
    print(f"help, {len(paths)} pages, medians of {ROUNDS} starts each")
    print(f"  reference: python -c pass                   {bare_s * 1e3:7.1f} ms")
    print(line("on top of it", (), extra_ms[()]))
    print(
        f"{line('slowest', slowest[0], extra_ms[slowest[0]])}   aim: within {AIM_MS} ms"
    )
    for path in slowest[1:SHOWN]:
        print(line("then", path, extra_ms[path]))
    late = sum(ms > AIM_MS for ms in extra_ms.values())
    print(f"  pages that take longer                      {late:7}")


def commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the words of a group and of every command below it, as they are typed."""
    yield path
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def one_s(command: tuple[str, ...]) -> float:
    """Return the time of a command from its start to its end (seconds); it must succeed."""
    return timed_s(lambda: subprocess.run(command, check=True, capture_output=True))


def line(what: str, path: tuple[str, ...], extra_ms: float) -> str:
    """Return a line of the figures: the measurement, the command, its extra time."""
    command = " ".join(("dispatchd", *path, "--help"))
    return f"  {what + ': ' + command:42}  {extra_ms:+7.1f} ms"


if __name__ == "__main__":
    main()
