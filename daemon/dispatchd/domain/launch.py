"""What an engine needs to know to start one attempt."""

from collections.abc import Mapping
from pathlib import Path

from attrs import Factory, field, frozen

from dispatchd.domain.isolation import Isolation, Network, PullPolicy
from dispatchd.domain.resources import Resources
from dispatchd.domain.secret import SecretSource


@frozen(kw_only=True)
class Checkout:
    """What a workspace is to hold before a command starts.

    `url` is a repository's address without credentials; `sha` a full commit id in hex, or empty for the
    tip of `ref`; `ref` a full git ref, or empty for the default branch; `timeout_s` is for all of it.
    """

    url: str
    sha: str = ""
    ref: str = ""
    timeout_s: float


@frozen(kw_only=True)
class Launch:
    """One attempt, ready to start.

    `command` is the argument vector, its first item an absolute path; `env` is the child's whole
    environment, of which `base_env` doesn't come from job or workflow, but for `secrets`, which the engine gets
    at the last moment, and `given`, secrets that the endpoint has given for this attempt, both by variable;
    `folder` belongs to the engine, which keeps there what it needs to find the attempt again; stdout and stderr
    are appended to `output_file`. With a `checkout` the workspace is filled first, by means of `token`.
    With an isolation the command reaches its `workspace` and its own `files`, reads its `inputs`, and reaches what the
    owner has added (`read_paths`, `write_paths`); never `hidden_paths`, the files with secrets. `temporary` is its own
    folder for temporary files, a part of `files`; `home` is one that it shares with other runs; a container is made from `image`, fetched as `pull` says.
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
    checkout: Checkout | None = None
    token: SecretSource | None = None
