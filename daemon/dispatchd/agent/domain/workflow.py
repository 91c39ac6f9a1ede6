"""Workflow that a job may ask for, as the machine's owner configured it."""

from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from attrs import Factory, frozen

from dispatchd.agent.domain.exit_table import DEFAULT_RETRIES, Contract
from dispatchd.agent.domain.isolation import Home, Network, PullPolicy
from dispatchd.agent.domain.job import Attempt, Terms
from dispatchd.agent.domain.launch import LOCAL
from dispatchd.agent.domain.limits import RunLimits
from dispatchd.agent.domain.run.github_server import PUBLIC
from dispatchd.agent.domain.run.secret import SecretSource
from dispatchd.protocol.job import Job

GH_TOKEN: Final = "GH_TOKEN"  # noqa: S105  # the name of a variable
"""Variable in which a command gets the token of the endpoint, as GitHub's `gh` reads it."""


class ReportLog(StrEnum):
    """Part of what its command writes that goes to the endpoint, without secrets."""

    FULL = "full"
    """All of it, and the end with the result; an endpoint without logs gets the end."""
    TAIL = "tail"
    """Its end with the result, and what it writes while somebody watches."""
    NEVER = "never"
    """Nothing."""


HEADLESS_ARGUMENTS: Final = (
    "--headless",
    "--context",
    "{brief}",
    "--output",
    "{result}",
)
"""Default arguments of a headless command, after its own."""


@frozen(kw_only=True)
class Repository:
    """Address from which the repository of a job is cloned: `url`/OWNER/NAME, with a token if one is named."""

    url: str
    token: SecretSource | None
    timeout_s: float


@frozen(kw_only=True)
class Workflow(RunLimits):
    """Command of a workflow, its environment, and its limits.

    `command` is the argument vector; its first item is an absolute path. A headless command is followed by
    `arguments`, in which `{brief}` and `{result}` stand for files. `env` is set in the child beside the variables of
    the job, `secrets` by variable. `github_token` are the permissions of a token of the endpoint (GitHub's name of a
    permission to `read` or `write`); empty for no token.

    `read_paths` and `write_paths` are reachable in its isolation beside its own files; `hidden_paths`, the files with
    secrets, are not. A container is made from `image`, fetched as `pull` says. `forks_without_isolation` lets
    jobs from forks run where nothing isolates them.

    `github_servers` are the GitHub servers that it allows, its own first; empty where its own has no HTTPS.
    `checkout` is None for a workspace that starts empty. Artifacts are paths relative to the workspace. A success
    that lacks one is parked, or is a failure if `missing_fails`. `engine` is the name of the one that runs it.
    """

    name: str
    command: tuple[str, ...]
    contract: Contract = Contract.PLAIN
    arguments: tuple[str, ...] = HEADLESS_ARGUMENTS
    env: Mapping[str, str] = Factory(dict)
    secrets: Mapping[str, SecretSource] = Factory(dict)
    github_token: Mapping[str, str] = Factory(dict)
    own_limits: tuple[str, ...] = ()
    """Controllers (cgroup v2) that its own limits need, beside those of `[runs]`."""
    network: Network = Network.HOST
    home: Home = Home.ATTEMPT
    image: str = ""
    pull: PullPolicy = PullPolicy.MISSING
    read_paths: tuple[str, ...] = ()
    write_paths: tuple[str, ...] = ()
    hidden_paths: tuple[str, ...] = ()
    writable_paths: tuple[str, ...] = ()
    """The `write_paths` of all workflows."""
    forks_without_isolation: bool = False
    github_servers: tuple[str, ...] = (PUBLIC,)
    repositories: tuple[str, ...] | None = None
    """Patterns of the repositories (OWNER/NAME) whose jobs it runs; None for any job."""
    checkout: Repository | None = None
    required_artifacts: tuple[str, ...] = ()
    missing_fails: bool = False
    artifacts: tuple[str, ...] = ()
    """Patterns of files in the workspace that are sent to the endpoint beside the required ones."""
    report_artifacts: bool = True
    """False if no artifact leaves the machine."""
    report_log: ReportLog = ReportLog.FULL
    engine: str = LOCAL

    def runs_for(self, job: Job) -> bool:
        """Return whether it runs jobs of this job's repository."""
        if self.repositories is None:
            return True
        # GitHub ignores the case of names, and reports them in their owner's.
        name = job.repository.lower() if job.owner_and_name else ""
        return bool(name) and any(
            fnmatchcase(name, pattern.lower()) for pattern in self.repositories
        )

    @property
    def retries(self) -> int:
        """Attempts after the first (count)."""
        own = self.max_retries
        return DEFAULT_RETRIES[self.contract] if own is None else own

    @property
    def terms(self) -> Terms:
        """Settings that count when an attempt has ended."""
        return Terms(
            retries=self.retries,
            required_artifacts=self.required_artifacts,
            missing_fails=self.missing_fails,
            report_output=self.report_log is not ReportLog.NEVER,
            has_secrets=bool(self.secret_variables),
            isolation=self.isolation,
        )

    @property
    def secret_variables(self) -> tuple[str, ...]:
        """Variables in which its command gets secrets, sorted."""
        token = [GH_TOKEN] if self.github_token else []
        return tuple(sorted([*self.secrets, *token]))

    @property
    def program(self) -> Path:
        """File that is executed."""
        return Path(self.command[0])


def terms_of(attempt: Attempt | None, workflow: Workflow | None) -> Terms:
    """Return the terms that an attempt was started under.

    Where its record has none, they are those of its workflow as configured now, and the defaults if it has gone.
    """
    if attempt is not None and attempt.terms is not None:
        return attempt.terms
    return Terms() if workflow is None else workflow.terms
