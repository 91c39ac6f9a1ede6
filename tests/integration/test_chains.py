"""Everyday tool chains in the sandbox: each works as it is, or with the keys that docs/security.md names."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from _pytest.mark import ParameterSet

from dispatchd.agent.engines.local import bubblewrap
from dispatchd.linux.landlock import able
from support.chains import CHAINS, Chain
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint

pytestmark = pytest.mark.skipif(able().abi == 0, reason="needs Landlock")


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    # Short, for the addresses of Unix sockets; and where all is tried, not below /tmp, which some runs may write to.
    marks = map(request.node.get_closest_marker, ("host", "torture"))
    above = Path.home() if any(marks) else None
    # The daemon's own thread may still remove files of a run: it isn't waited for.
    with TemporaryDirectory(
        prefix="chains-", dir=above, ignore_cleanup_errors=True
    ) as name:
        yield Path(name)


def those(wanted: Callable[[Chain], bool] = lambda _: True) -> list[ParameterSet]:
    """Return the names of chains that are wanted, as parameters."""
    return [
        pytest.param(name, marks=marks(chain))
        for name, chain in CHAINS.items()
        if wanted(chain)
    ]


def marks(chain: Chain) -> list[pytest.MarkDecorator]:
    if chain.cheap:
        return []
    return [pytest.mark.host, *[pytest.mark.torture(least_s=60)] * chain.dear]


@pytest.mark.parametrize("name", those())
async def test_a_tool_chain_works_behind_the_wall(name: str, folder: Path) -> None:
    chain = CHAINS[name]
    skip_without(chain)

    assert await ended(chain, folder, chain.keys) == "succeeded"


@pytest.mark.parametrize("name", those(lambda chain: bool(chain.keys)))
async def test_a_tool_chain_with_keys_needs_them(name: str, folder: Path) -> None:
    chain = CHAINS[name]
    skip_without(chain)

    assert await ended(chain, folder, "") == "failed"


def in_bubblewrap() -> list[ParameterSet]:
    """Return the names of all chains that don't choose their isolation; one in six with `make test-host`."""
    names = [name for name, chain in CHAINS.items() if "isolation" not in chain.keys]
    turns = (pytest.mark.host, *[pytest.mark.torture(least_s=60)] * 5)
    return [
        pytest.param(name, marks=turns[n % len(turns)]) for n, name in enumerate(names)
    ]


@pytest.mark.parametrize("name", in_bubblewrap())
async def test_a_tool_chain_works_in_bubblewrap(name: str, folder: Path) -> None:
    chain = CHAINS[name]
    skip_without(chain)
    problem = bubblewrap.problem(os.environ["PATH"])
    if problem:
        pytest.skip(problem)

    status = await ended(chain, folder, chain.keys, isolation="bubblewrap")
    works = chain.enclosed or os.geteuid() == 0
    assert status == ("succeeded" if works else "failed")


def skip_without(chain: Chain) -> None:
    for program in chain.needs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    if os.geteuid() == 0 and not chain.as_root:
        pytest.skip("can't be done as root")


async def ended(
    chain: Chain, folder: Path, keys: str, isolation: str = "sandbox"
) -> str:
    """Return how a job ends that runs a chain, by a daemon with a workflow of some keys."""
    cache = folder / "cache"
    cache.mkdir()
    before, script = (
        f"PYTHON='{sys.executable}'\n{chain.placed(each, cache)}"
        for each in (chain.before, chain.script)
    )
    outside = subprocess.run(
        ["/bin/sh", "-euc", before],
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    if outside.returncode:
        pytest.skip(f"can't be done here without a wall either: {outside.stderr}")
    async with endpoint() as hub:
        config = write_config(
            folder / "d",
            hub.url,
            {"it": ["/bin/sh", "-euc", script]},
            limits=chain.placed(keys, cache),
            isolation=isolation,
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            (finish,) = await hub.until_finished("j", within_s=200)
    print((daemon.state / "runs/j/attempt-1/output.log").read_text())
    print(finish["result_summary"])
    status: str = finish["result_status"]
    return status


def test_the_docs_list_the_chains() -> None:
    page = (Path(__file__).parents[2] / "docs/security.md").read_text()
    table = page.partition("## Tool chains")[2].partition("\n## ")[0]

    assert re.findall(r"^\| (.+?) \| (works|`.+`) \|$", table, re.MULTILINE) == [
        (name, chain.cell) for name, chain in CHAINS.items()
    ]
