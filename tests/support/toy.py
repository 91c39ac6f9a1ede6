"""The toy engine of the examples, as an installed package: as it is, or with a part of it replaced."""

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from support.daemon import write_config

SOURCE = Path(__file__).parents[2] / "examples" / "engine" / "dispatchd_toy.py"

_numbers = count()


def installed(
    folder: Path, *mutation: str, kind: str = "toy", text: str | None = None
) -> Path:
    """Install a package with an engine into a new folder for the path of modules, and return that.

    A mutation is a part of the toy's source, and what stands in its place; `text` is another source.
    """
    source = SOURCE.read_text() if text is None else text
    if mutation:
        old, new = mutation
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    site = folder / "site"
    # Python imports a module of a name once.
    module = f"toy_{next(_numbers)}"
    info = site / f"{module}-1.dist-info"
    info.mkdir(parents=True)
    (site / f"{module}.py").write_text(source)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n"
    )
    (info / "entry_points.txt").write_text(
        f"[dispatchd.engines]\n{kind} = {module}:Toy\n"
    )
    return site


def toy_config(
    folder: Path,
    url: str = "http://127.0.0.1:9",
    workflows: Mapping[str, list[str]] | None = None,
    *,
    settings: str = "",
    kind: str = "toy",
    limits: str = 'engine = "toy"',
) -> Path:
    """Write the configuration of a daemon whose workflows run on the toy."""
    (folder / "spool").mkdir(parents=True, exist_ok=True)
    file = write_config(
        folder,
        url,
        workflows or {},
        limits=limits,
        runs="inactivity_s = 0\nretry_wait_s = 0.1",
    )
    settings = settings or f"spool = {json.dumps(str(folder / 'spool'))}"
    with file.open("a") as text:
        text.write(
            f'\n[engines.toy]\nkind = "{kind}"\npoll_s = 1\n[engines.toy.settings]\n{settings}\n'
        )
    return file
