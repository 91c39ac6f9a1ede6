"""Start of one attempt, as an engine needs it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import Factory, field, frozen

from dispatchd.agent.domain.isolation import Isolation, Network, PullPolicy
from dispatchd.agent.domain.run.secret import SecretSource
from dispatchd.protocol.outcome import Resources

LOCAL: Final = "local"
"""Name of the engine that every machine has: its own processes."""


@frozen(kw_only=True)
class Checkout:
    """Content of a workspace before its command starts.

    `url` is a repository's address without credentials. `sha` is a full commit id in hex, or empty for the
    tip of `ref`. `ref` is a full git ref, or empty for the default branch. `timeout_s` is the limit for all of it.
    """

    url: str
    sha: str = ""
    ref: str = ""
    timeout_s: float


@frozen(kw_only=True)
class Launch:
    """One attempt, ready to start.

    `command` is the argument vector; its first item is an absolute path. `env` is the whole environment of the
    child, but for the secrets. `base_env` is the part of it that comes neither from the job nor from the workflow.
    `secrets`, by variable, are read by the engine at the last moment. `given` are secrets that the endpoint gave
    for this attempt, by variable. `folder` belongs to the engine, which stores there what it needs to find the
    attempt again. stdout and stderr are appended to `output_file`. With a `checkout` the workspace is filled first,
    by means of `token`.

    With an isolation the command can write its `workspace` and its own `files`, and read its `inputs`. The owner may
    add `read_paths` and `write_paths`. `hidden_paths`, the files with secrets, are never reachable. `writable_paths` are
    the paths that any workflow may write, so that links in them aren't trusted. `temporary` is its
    own folder for temporary files, a part of `files`; `home` is a home folder that it shares with other runs. A
    container is made from `image`, fetched as `pull` says.

    `engine` is the engine that starts it, by its name in the configuration; `limit_s` is the attempt's time limit
    (seconds; 0 for none).
    """

    run_id: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    base_env: Mapping[str, str] = Factory(dict)
    workspace: Path
    folder: Path
    output_file: Path
    secrets: Mapping[str, SecretSource] = Factory(dict)
    given: Mapping[str, str] = field(factory=dict, repr=False)
    resources: Resources = Factory(Resources)
    isolation: Isolation = Isolation.SANDBOX
    network: Network = Network.HOST
    image: str = ""
    pull: PullPolicy = PullPolicy.MISSING
    files: Path
    home: Path | None = None
    temporary: Path = Factory(lambda self: self.files / "tmp", takes_self=True)
    inputs: tuple[Path, ...] = ()
    read_paths: tuple[str, ...] = ()
    write_paths: tuple[str, ...] = ()
    hidden_paths: tuple[str, ...] = ()
    writable_paths: tuple[str, ...] = ()
    engine: str = LOCAL
    limit_s: float = 0.0
    checkout: Checkout | None = None
    token: SecretSource | None = None
