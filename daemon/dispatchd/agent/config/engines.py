"""Checks of engines and of the workflows that run on them, beside those of the schema."""

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, distributions
from types import MappingProxyType
from typing import Final

from dispatchd.agent.config.keys import EngineEntry, EngineKind, File, WorkflowEntry
from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.launch import LOCAL
from dispatchd.protocol.job import Json

OWN_KEYS: Final = ("partition", "account", "qos", "time", "gres", "constraint")
"""Keys of an engine that are options of sbatch(1) of the same name."""

OURS: Final = (
    *("array", "batch", "begin", "chdir", "clusters", "comment", "error", "export"),
    *("export-file", "get-user-env", "gid", "help", "hold", "input", "job-name"),
    *("no-requeue", "open-mode", "output", "parsable", "quiet", "requeue", "signal"),
    *("test-only", "uid", "usage", "verbose", "version", "wait", "wrap"),
    *OWN_KEYS,
)
"""Options of sbatch(1) that the daemon sets, has a key for, or relies on not being set."""

_ALONE: Final = MappingProxyType(
    {
        EngineKind.SLURM: (*OWN_KEYS, "options"),
        EngineKind.DAGU: ("url", "dag", "key_file"),
    }
)
"""Keys that only one kind of engine knows."""

GROUP: Final = "dispatchd.engines"
"""Group of the entry points of engines of third parties."""

_OPTION: Final = re.compile(r"--([a-z][a-z0-9-]*)(=[^\x00-\x1f\x7f]*)?")

_LOCAL_ALONE: Final = (
    *("image", "pull", "home", "network", "read_paths", "write_paths"),
    *("pids_max", "cpu_weight"),
)
"""Keys of a workflow that mean something to this machine's own processes alone."""


def unfit_options(content: File) -> Iterator[tuple[str, str]]:
    """Yield key and expectation for every setting of an engine that its kind can't use."""
    for name, entry in content.engines.items():
        for key, expected in (*_foreign(entry), *_needed(entry)):
            yield f"engines.{name}.{key}", expected
        for index, option in enumerate(entry.options):
            if problem := _problem(option):
                yield f"engines.{name}.options[{index}]", problem


def _foreign(entry: EngineEntry) -> Iterator[tuple[str, str]]:
    for kind, keys in _ALONE.items():
        for key in keys:
            if kind != entry.kind and getattr(entry, key):
                yield key, f'must not stand beside kind = "{entry.kind}"'
    if entry.settings and not entry.is_foreign:
        yield "settings", f'must not stand beside kind = "{entry.kind}"'


def _needed(entry: EngineEntry) -> Iterator[tuple[str, str]]:
    if entry.is_foreign:
        yield from _unfound(entry.kind)
    if entry.kind == EngineKind.DAGU:
        for key in ("url", "dag"):
            if not getattr(entry, key):
                yield key, 'must be set with kind = "dagu"'


def entry_points_of(kind: str) -> list[EntryPoint]:
    """Return the entry points of a kind of engine: one, none, or those of several packages."""
    return [point for point in _entry_points() if point.name == kind]


def _entry_points() -> Iterator[EntryPoint]:
    """Yield the entry points of engines. A package whose own can't be read has none, and ends nothing else."""
    seen: set[str] = set()
    for package in distributions():
        try:
            name = re.sub(r"[-_.]+", "-", package.metadata["Name"] or "").lower()
            # One that is earlier on the path stands before its namesakes.
            is_first = name not in seen
            points = [each for each in package.entry_points if each.group == GROUP]
        except Exception:  # noqa: BLE001, S112  # the files are anybody's
            continue
        seen.add(name)
        if is_first:
            yield from points


def _unfound(kind: str) -> Iterator[tuple[str, str]]:
    places = {each.value for each in entry_points_of(kind)}
    if len(places) == 1:
        return
    if places:
        yield (
            "kind",
            f"must be of one package alone; there are {', '.join(sorted(places))}",
        )
        return
    known = [*EngineKind, *sorted({each.name for each in _entry_points()})]
    yield (
        "kind",
        f"must be one of {', '.join(known)}; no package here has an entry point {kind} of the group {GROUP}",
    )


def _problem(option: str) -> str:
    found = _OPTION.fullmatch(option)
    if found is None:
        return "must be a long option of sbatch, as --NAME or --NAME=VALUE"
    # getopt_long(3) takes any unambiguous beginning of a name.
    taken = next((name for name in OURS if name.startswith(found[1])), None)
    if taken is None:
        return ""
    if taken in OWN_KEYS:
        return f"must not be --{taken}, which has a key of its own: {taken}"
    return f"must not be --{taken}, which the daemon decides"


def unfit_engines(
    content: File, tables: Mapping[str, Mapping[str, Json]]
) -> Iterator[tuple[str, str]]:
    """Yield key and expectation for every workflow whose engine is unknown, or doesn't know its other keys."""
    known = ", ".join([LOCAL, *content.engines])
    for name, entry in content.workflows.items():
        if entry.engine == LOCAL:
            continue
        if entry.engine not in content.engines:
            yield (
                f"workflows.{name}.engine",
                f"must name an engine of the table [engines]; known are: {known}",
            )
        for key in _LOCAL_ALONE:
            if key in tables[name]:
                yield (
                    f"workflows.{name}.{key}",
                    f'must not stand beside engine = "{entry.engine}", which doesn\'t know it',
                )
        if tables[name].get("isolation", "none") != "none":
            yield (
                f"workflows.{name}.isolation",
                f'must be "none", or left out, with engine = "{entry.engine}": nothing isolates its runs',
            )


def isolation_of(entry: WorkflowEntry) -> Isolation:
    """Return the isolation of a workflow's runs: none but this machine's own are isolated."""
    return entry.isolation if entry.engine == LOCAL else Isolation.NONE


def slots_of(engines: Mapping[str, EngineEntry], name: str) -> int:
    """Return the slots of an engine beside the local one (count); 0 for one that isn't configured."""
    entry = engines.get(name)
    return 0 if entry is None else entry.slots
