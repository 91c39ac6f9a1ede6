"""The files that come with the package for a service.

In an installed package they are in `dispatchd/_service`. In a source tree, which an editable install uses, they are
where the project has them.
"""

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).parents[4]

_ELSEWHERE: Final = {
    "config.example.toml": "config.example.toml",
    "alerts.yml": "docs/monitoring/alerts.yml",
}
"""Files that are not in the source tree's `systemd/`, with their places."""


def shipped(name: str) -> str:
    """Return the text of a file, named as in `systemd/`, under no brand."""
    packaged = _packaged()
    if packaged is not None:
        return packaged.joinpath(*name.split("/")).read_text(encoding="utf-8")
    return (_SOURCE / _ELSEWHERE.get(name, f"systemd/{name}")).read_text("utf-8")


def drop_ins() -> Iterator[str]:
    """Yield the names of the examples of drop-ins for the daemon's unit."""
    folder = (_packaged() or _SOURCE / "systemd") / "dispatchd.service.d"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        yield f"dispatchd.service.d/{file.name}"


def _packaged() -> Traversable | None:
    folder = files("dispatchd") / "_service"
    return folder if folder.is_dir() else None
